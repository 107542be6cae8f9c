// kubo-rpc-client, told by lines of JSON what to call; one line of JSON answers each.
//   {"call": "block.put", "args": [{"$bytes": "aGk="}]}
// What is not JSON travels as {"$bytes": base64}; `$parts`: an iterable of bytes; CIDs are text.
import { createInterface } from 'node:readline'
import { create, CID } from 'kubo-rpc-client'

const client = create({ url: process.argv[2] })

function given (value) {
  if (Array.isArray(value)) return value.map(given)
  if (value === null || typeof value !== 'object') return value
  if ('$bytes' in value) return new Uint8Array(Buffer.from(value.$bytes, 'base64'))
  if ('$cid' in value) return CID.parse(value.$cid)
  if ('$parts' in value) return (async function * () { yield * value.$parts.map(given) })()
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, given(one)]))
}

async function told (value) {
  value = await value
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString('base64') }
  if (typeof value === 'bigint') return Number(value)
  if (CID.asCID(value) !== null) return value.toString()
  if (value === null || typeof value !== 'object') return value ?? null
  if (Symbol.asyncIterator in value) {
    const all = []
    for await (const one of value) all.push(await told(one))
    return all
  }
  if (Array.isArray(value)) return Promise.all(value.map(told))
  if (value.toString !== Object.prototype.toString) return value.toString()
  const rows = []
  for (const [key, one] of Object.entries(value)) rows.push([key, await told(one)])
  return Object.fromEntries(rows)
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const { call, args } = JSON.parse(line)
    const path = call.split('.')
    const method = path.pop()
    const owner = path.reduce((at, name) => at[name], client)
    answer = { result: await told(owner[method](...given(args))) }
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` }
  }
  console.log(JSON.stringify(answer))
}
process.exit(0)
