"""Azure Blob Storage as a source.

options   how containers are asked: plain values
source    the adapter: which endpoint, which login, signed addresses
sign      those, as "service SAS": pure
listing   the question itself, run in a worker process: a page of a list tells all there is to know
login     tokens, by Microsoft's own library (azure-identity), in the same process
"""
