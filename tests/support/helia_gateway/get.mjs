// Fetches files through a trustless gateway, verified by Helia, and tells their sizes and hashes.
import { createHash } from 'node:crypto'
import { trustlessGateway } from '@helia/block-brokers'
import { httpGatewayRouting } from '@helia/routers'
import { unixfs } from '@helia/unixfs'
import { Helia } from '@helia/utils'
import { defaultLogger } from '@libp2p/logger'
import { MemoryBlockstore } from 'blockstore-core'
import { MemoryDatastore } from 'datastore-core'
import { CID } from 'multiformats/cid'

const [gateway, ...wanted] = process.argv.slice(2)
const logger = defaultLogger()
const helia = new Helia({
  libp2p: { logger, start: async () => {}, stop: async () => {} },
  blockstore: new MemoryBlockstore(),
  datastore: new MemoryDatastore(),
  blockBrokers: [trustlessGateway({ allowInsecure: true, allowLocal: true })],
  routers: [httpGatewayRouting({ gateways: [gateway] })],
  logger
})
await helia.start()
const files = unixfs(helia)
for (const one of wanted) {
  const [cid, ...path] = one.split('/')
  const hash = createHash('sha256')
  let size = 0
  const options = { path: path.join('/') || undefined, signal: AbortSignal.timeout(60000) }
  for await (const part of files.cat(CID.parse(cid), options)) {
    hash.update(part)
    size += part.length
  }
  console.log(JSON.stringify({ wanted: one, size, sha256: hash.digest('hex') }))
}
process.exit(0)
