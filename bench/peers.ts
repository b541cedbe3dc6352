/**
 * Messages of one 256-byte entry between two nodes, each answered by a message, beside a bare TLS
 * echo of 256 bytes on Bun's sockets with the same certificates: what the peers' protocol adds.
 * Both ends are processes of their own. The sides take turns in each round; medians are printed.
 * One way is half of a round trip.
 *
 * npm run bench:peers -- [--rounds N] [--seconds S]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import type { Socket } from 'bun'
import { issueNode, makeAuthority, makeKeyPair } from '../src/cluster/certificates.ts'
import { ClusterPeers, type PeerEvents } from '../src/cluster/peers.ts'
import type { Credentials } from '../src/cluster/transport.ts'
import type { Message, NodeId } from '../src/raft/types.ts'

const entryBytes = 256
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    concurrency: { type: 'string', default: '1,64,256,1024' },
    echo: { type: 'string' },
  },
})

type Events = Pick<PeerEvents, 'messages'> & Partial<PeerEvents>

function makePeers(nodeId: NodeId, credentials: Credentials, events: Events): ClusterPeers {
  const nothing = () => undefined
  return new ClusterPeers({
    ...{ clusterId: 'bench', nodeId, groupId: 1, incarnation: `${process.pid}` },
    ...{ commandVersion: 1, version: 'bench', credentials, host: '127.0.0.1', port: 0 },
    ...{ wallMs: () => Date.now(), random: Math.random },
    advertise: port => `127.0.0.1:${port}`,
    handlers: { calls: {}, uploads: {}, downloads: {} },
    events: {
      ...{ unreachable: nothing, admit: nothing, hello: nothing, problem: nothing },
      ...{ refused: nothing, skew: nothing, joiner: nothing },
      bug: error => {
        throw error
      },
      ...events,
    },
  })
}

const empty = {
  ...{ term: 7, logTerm: 7, index: 0, commit: 0, entries: [], reject: false, rejectHint: 0 },
  ...{ snapshot: undefined, context: 0, isTransfer: false },
} as const

function tlsOf({ authority, certificate, key }: Credentials) {
  const [ca, cert] = [authority ?? '', certificate ?? '']
  return { ca, cert, key: key ?? '', requestCert: true, rejectUnauthorized: false }
}

/** The other process: answers on both sides, and says what CPU it took. */
async function echo(text: string): Promise<void> {
  const { credentials, address } = JSON.parse(text)
  const peers = makePeers(2, credentials, {
    messages: (_from, messages) =>
      peers.send(
        messages.map(({ index }) => ({ ...empty, type: 'MsgAppResp', from: 2, to: 1, index })),
      ),
  })
  peers.setMembers([{ id: 1, address }])
  const rest = new WeakMap<Socket, Buffer>()
  const bare = Bun.listen({
    ...{ hostname: '127.0.0.1', port: 0, tls: tlsOf(credentials) },
    socket: {
      open: socket => {
        socket.setNoDelay(true)
      },
      data: (socket, chunk) => writeAll(rest, socket, chunk),
      drain: socket => writeAll(rest, socket, Buffer.alloc(0)),
    },
  })
  console.log(JSON.stringify({ address: peers.address, port: bare.port }))
  for await (const _line of createInterface(process.stdin)) {
    const { user, system } = process.cpuUsage()
    console.log(JSON.stringify({ cpuUs: user + system }))
  }
  process.exit()
}

function writeAll(rest: WeakMap<Socket, Buffer>, socket: Socket, chunk: Buffer): void {
  const bytes = Buffer.concat([rest.get(socket) ?? Buffer.alloc(0), chunk])
  if (bytes.length > 0) rest.set(socket, bytes.subarray(socket.write(bytes)))
}

interface Side {
  readonly name: string
  /** Sends `count` requests in one turn, whose numbers begin with `first`. */
  send(first: number, count: number): void
  /** Called with the number of answers, which come in order. */
  onAnswers: (count: number) => void
}

interface Figures {
  readonly perSecond: number
  readonly p50Us: number
  readonly p99Us: number
}

async function measure(side: Side, concurrency: number, durationMs: number): Promise<Figures> {
  const sentAt = new Float64Array(concurrency)
  const latencies: number[] = []
  let [sent, answered] = [0, 0]
  const send = (count: number) => {
    const nowMs = performance.now()
    for (let at = 0; at < count; at++) sentAt[(sent + at) % concurrency] = nowMs
    sent += count
    side.send(sent - count, count)
  }
  const startedMs = performance.now()
  await new Promise<void>(resolve => {
    side.onAnswers = count => {
      const nowMs = performance.now()
      for (let at = 0; at < count; at++) {
        latencies.push(nowMs - (sentAt[(answered + at) % concurrency] as number))
      }
      answered += count
      if (nowMs - startedMs < durationMs) send(count)
      else if (answered === sent) resolve()
    }
    send(concurrency)
  })
  const perSecond = (answered / (performance.now() - startedMs)) * 1000
  latencies.sort((a, b) => a - b)
  const oneWayUs = (part: number) =>
    ((latencies[Math.floor(latencies.length * part)] ?? 0) / 2) * 1000
  return { perSecond, p50Us: oneWayUs(0.5), p99Us: oneWayUs(0.99) }
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0
}

async function bareSide(port: number, credentials: Credentials): Promise<Side> {
  const block = Buffer.alloc(entryBytes * 2048, 1)
  let pending = 0
  let rest = 0
  const rests = new WeakMap<Socket, Buffer>()
  const ready = Promise.withResolvers<Socket>()
  const side: Side = {
    name: 'bare TLS echo',
    send: (_first, count) => writeAll(rests, socket, block.subarray(0, entryBytes * count)),
    onAnswers: () => undefined,
  }
  await Bun.connect({
    ...{ hostname: '127.0.0.1', port, tls: tlsOf(credentials) },
    socket: {
      handshake: opened => {
        opened.setNoDelay(true)
        ready.resolve(opened)
      },
      data: (_socket, chunk) => {
        rest += chunk.length
        pending = Math.floor(rest / entryBytes)
        rest -= pending * entryBytes
        if (pending > 0) side.onAnswers(pending)
      },
      drain: opened => writeAll(rests, opened, Buffer.alloc(0)),
    },
  })
  const socket = await ready.promise
  return side
}

async function main(): Promise<void> {
  const authority = await makeAuthority('bench', Date.now())
  const credentialsOf = async (nodeId: NodeId): Promise<Credentials> => {
    const { publicKey, privateKey } = makeKeyPair()
    const life = { nowMs: Date.now(), lifeMs: 3_600_000 }
    const request = { clusterId: 'bench', nodeId, publicKey, ...life }
    const certificate = await issueNode(authority, request)
    return { authority: authority.certificate, certificate, key: privateKey }
  }
  const own = await credentialsOf(1)
  const peers = makePeers(1, own, { messages: (_from, got) => through.onAnswers(got.length) })
  const bytes = crypto.getRandomValues(new Uint8Array(entryBytes))
  const through: Side = {
    name: 'peers',
    send: (first, count) => {
      const messages: Message[] = []
      for (let at = 0; at < count; at++) {
        const index = first + at
        const entries = [{ index, term: 7, kind: 'normal' as const, bytes }]
        messages.push({ ...empty, type: 'MsgApp', from: 1, to: 2, index, entries })
      }
      peers.send(messages)
    },
    onAnswers: () => undefined,
  }
  const told = JSON.stringify({ credentials: await credentialsOf(2), address: peers.address })
  const child = spawn(process.execPath, [import.meta.path, '--echo', told], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface(child.stdout)
  const ask = async () => JSON.parse((await once(lines, 'line'))[0])
  const there = await ask()
  peers.setMembers([{ id: 2, address: there.address }])
  while (peers.states()[0]?.isConnected !== true) await Bun.sleep(5)
  await Bun.sleep(200)
  const bare = await bareSide(there.port, own)
  const cpuUs = async () => {
    child.stdin.write('\n')
    const { user, system } = process.cpuUsage()
    return (await ask()).cpuUs + user + system
  }
  await compare([through, bare], cpuUs)
  child.kill()
  process.exit()
}

async function compare(sides: readonly Side[], cpuUs: () => Promise<number>): Promise<void> {
  for (const side of sides) await measure(side, 64, 1000)
  for (const concurrency of values.concurrency.split(',').map(Number)) {
    const figures = sides.map(() => [] as (Figures & { readonly cpu: number })[])
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [at, side] of sides.entries()) {
        const beforeUs = await cpuUs()
        const durationMs = Number(values.seconds) * 1000
        const measured = await measure(side, concurrency, durationMs)
        const cpu = ((await cpuUs()) - beforeUs) / (measured.perSecond * Number(values.seconds))
        figures[at]?.push({ ...measured, cpu })
      }
    }
    console.log(`\n${concurrency} at a time`)
    const rows = sides.map(({ name }, at) => {
      const of = (pick: (one: Figures & { cpu: number }) => number) =>
        median((figures[at] ?? []).map(pick))
      const row = {
        ...{ perSecond: of(one => one.perSecond), p50: of(one => one.p50Us) },
        ...{ p99: of(one => one.p99Us), cpu: of(one => one.cpu) },
      }
      console.log(
        `  ${name.padEnd(14)} ${row.perSecond.toFixed(0).padStart(8)} messages/s  one way ` +
          `p50 ${row.p50.toFixed(0)} µs, p99 ${row.p99.toFixed(0)} µs  ` +
          `${row.cpu.toFixed(2)} µs of CPU at both ends`,
      )
      return row
    })
    const [ours, theirs] = rows
    if (ours === undefined || theirs === undefined) return
    const ratio = (pick: 'perSecond' | 'p99' | 'cpu') => (ours[pick] / theirs[pick]).toFixed(2)
    console.log(
      `  ratio to bare: messages/s ${ratio('perSecond')}, p99 ${ratio('p99')}, CPU ${ratio('cpu')}`,
    )
  }
}

await (values.echo === undefined ? main() : echo(values.echo))
