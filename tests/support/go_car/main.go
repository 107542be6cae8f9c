// The index of a CAR as go-car makes it, on stdout; fails unless it can read the one beside the CAR.
package main

import (
	"fmt"
	"os"

	carv2 "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/index"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	beside, err := os.Open(os.Args[1] + ".idx")
	check(err)
	_, err = index.ReadFrom(beside)
	check(err)
	file, err := os.Open(os.Args[1])
	check(err)
	made, err := carv2.GenerateIndex(file)
	check(err)
	_, err = index.WriteTo(made, os.Stdout)
	check(err)
}
