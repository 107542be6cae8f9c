// One js-libp2p peer for tests/real/test_net_interop.py: commands on stdin, one JSON line each way.
import { createInterface } from 'node:readline'
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@libp2p/noise'
import { yamux } from '@libp2p/yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { multiaddr } from '@multiformats/multiaddr'

const key = process.argv[2]
const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() },
  connectionGater: { denyDialMultiaddr: () => false },
  ...(key === 'none' ? {} : { connectionProtector: preSharedKey({ psk: Buffer.from(key, 'base64') }) })
})
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')
say({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map((a) => a.toString().split('/p2p/')[0]) })

const does = {
  dial: async ({ address }) => { await node.dial(multiaddr(address), { signal: AbortSignal.timeout(10000) }); return true },
  ping: async ({ address }) => await node.services.ping.ping(multiaddr(address)),
  known: async ({ peer }) => {
    const found = (await node.peerStore.all()).find((p) => p.id.toString() === peer)
    return found == null ? null : { protocols: found.protocols, addresses: found.addresses.map((a) => a.multiaddr.toString()) }
  },
  connected: async () => node.getPeers().map(String)
}
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try { say({ result: await does[command.do](command) }) } catch (error) { say({ error: String(error) }) }
}
await node.stop()
