// One Helia bitswap over js-libp2p for tests/real/test_bitswap_helia.py: commands on stdin, one JSON line each way.
import { createInterface } from 'node:readline'
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@libp2p/noise'
import { yamux } from '@libp2p/yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { multiaddr } from '@multiformats/multiaddr'
import { defaultLogger } from '@libp2p/logger'
import { MemoryBlockstore } from 'blockstore-core'
import { Bitswap } from './node_modules/@helia/bitswap/dist/src/bitswap.js'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'
const key = process.argv[2]
const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] }, transports: [tcp()], connectionEncrypters: [noise()], streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }, connectionGater: { denyDialMultiaddr: () => false },
  ...(key === 'none' ? {} : { connectionProtector: preSharedKey({ psk: Buffer.from(key, 'base64') }) })
})
const blockstore = new MemoryBlockstore()
const bitswap = new Bitswap({ libp2p: node, blockstore, logger: defaultLogger(), getHasher: async () => sha256,
  routing: { async * findProviders () {}, async provide () {} } })
await bitswap.start()
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')
say({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map((a) => a.toString().split('/p2p/')[0]) })
const does = {
  dial: async ({ address }) => { await node.dial(multiaddr(address), { signal: AbortSignal.timeout(10000) }); return true },
  put: async ({ data, codec }) => {
    const bytes = Buffer.from(data, 'base64'); const cid = CID.createV1(codec, await sha256.digest(bytes))
    await blockstore.put(cid, bytes); await bitswap.notify(cid); return cid.toString()
  },
  want: async ({ cid }) => Buffer.from(await bitswap.want(CID.parse(cid), { signal: AbortSignal.timeout(60000) })).toString('base64')
}
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try { say({ result: await does[command.do](command) }) } catch (error) { say({ error: String(error) }) }
}
await bitswap.stop(); await node.stop()
