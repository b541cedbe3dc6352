/**
 * Load from a compiled program in a process of its own (pump.c, compiled in memory by the runtime;
 * needs the headers of libc), so that it takes little of the machine from the servers that are
 * compared, and the same little from each. Run by itself it is that process.
 */
import { cc, ptr } from 'bun:ffi'
import { join } from 'node:path'

export interface Pump {
  /** On 127.0.0.1; connections go to them in turn. */
  readonly ports: readonly number[]
  readonly connections: number
  readonly request: HttpRequest | GrpcRequest
  readonly warmUpMs?: number
  readonly durationMs: number
}

/** The body's last eight bytes before `tail` are overwritten by a counter. */
export interface HttpRequest {
  readonly kind: 'http'
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  /** Bytes at the end of the body that stay. */
  readonly tail: number
}

export interface GrpcRequest {
  readonly kind: 'grpc'
  /** `/package.Service/Method`. */
  readonly path: string
  /** Protocol buffer in base64; its last eight bytes are overwritten by a counter. */
  readonly message: string
  /** Requests under way on one connection; that many clients share it. */
  readonly streams: number
}

export interface PumpResult {
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  /** Answers that were no success, and connections that broke. */
  readonly errors: number
}

export async function runPump(pump: Pump): Promise<PumpResult> {
  const child = Bun.spawn([process.execPath, import.meta.path, JSON.stringify(pump)], {
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'inherit',
  })
  const text = await new Response(child.stdout).text()
  if ((await child.exited) !== 0) throw new Error('the load generator failed')
  return JSON.parse(text) as PumpResult
}

interface Bytes {
  readonly greeting: Uint8Array
  readonly firstHead: Uint8Array
  readonly nextHead: Uint8Array
  readonly body: Uint8Array
}

function httpBytes({ method, path, headers, body }: HttpRequest): Bytes {
  const length = String(Buffer.byteLength(body))
  const fields = Object.entries({ host: 'localhost', ...headers, 'content-length': length })
  const lines = [
    `${method} ${path} HTTP/1.1`,
    ...fields.map(([name, value]) => `${name}: ${value}`),
  ]
  const head = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`)
  return { greeting: new Uint8Array(), firstHead: head, nextHead: head, body: Buffer.from(body) }
}

function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** HPACK without Huffman codes: the lengths here are all below 127. */
const hpackText = (text: string) => [text.length, ...Buffer.from(text)]

/** Frames of RFC 9113, fields of RFC 7541: what any gRPC client sends. */
function grpcBytes({ path, message: base64 }: GrpcRequest): Bytes {
  const message = Buffer.from(base64, 'base64')
  const window = Buffer.alloc(4)
  window.writeUInt32BE(2 ** 31 - 1 - 65_535)
  const greeting = Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    frame(4, 0, 0, new Uint8Array()),
    frame(8, 0, 0, window),
  ])
  // `:method: POST` and `:scheme: http` of the static table, then four fields that are remembered.
  const methodAndScheme = [0x83, 0x86]
  const remembered = [
    ...[0x44, ...hpackText(path)],
    ...[0x41, ...hpackText('localhost')],
    ...[0x5f, ...hpackText('application/grpc')],
    ...[0x40, ...hpackText('te'), ...hpackText('trailers')],
  ]
  const first = Buffer.from([...methodAndScheme, ...remembered])
  // The newest field has index 62.
  const next = Buffer.from([...methodAndScheme, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62])
  const prefix = Buffer.alloc(5)
  prefix.writeUInt32BE(message.length, 1)
  return {
    greeting,
    firstHead: frame(1, 4, 0, first),
    nextHead: frame(1, 4, 0, next),
    body: frame(0, 1, 0, Buffer.concat([prefix, message])),
  }
}

const bytesOf = (request: Pump['request']): Bytes =>
  request.kind === 'http' ? httpBytes(request) : grpcBytes(request)

const bucketMs = 0.01
const bucketsMax = 1_000_000

function pumped(pump: Pump): PumpResult {
  const { symbols } = cc({
    source: join(import.meta.dir, 'pump.c'),
    symbols: {
      pump: { args: ['ptr', 'ptr'], returns: 'void' },
    },
  })
  const { request } = pump
  const isGrpc = request.kind === 'grpc'
  const streams = isGrpc ? request.streams : 1
  const seconds = [pump.warmUpMs ?? 500, pump.durationMs].map(ms => ms / 1000)
  const tail = isGrpc ? 0 : request.tail
  const shared = Math.ceil(pump.connections / streams)
  const numbers = new Float64Array([Number(isGrpc), shared, streams, ...seconds, tail, 0, 0, 0, 0])
  const buckets = new Uint32Array(bucketsMax)
  const ports = new Int32Array(pump.ports)
  // A pointer to no bytes would be null.
  const pair = (bytes: NodeJS.TypedArray) => [
    BigInt(ptr(bytes.length === 0 ? new Uint8Array(1) : bytes)),
    BigInt(bytes.length),
  ]
  const { greeting, firstHead, nextHead, body } = bytesOf(request)
  const arrays = [ports, greeting, firstHead, nextHead, body, buckets]
  symbols.pump(ptr(numbers), ptr(new BigInt64Array(arrays.flatMap(pair))))
  const [count = 0, errors = 0, elapsedS = 0, maxMs = 0] = numbers.subarray(6)
  const total = buckets.reduce((sum, n) => sum + n, 0)
  const quantile = (part: number) => {
    let left = total * part
    for (const [bucket, count] of buckets.entries()) {
      left -= count
      if (left <= 0) return (bucket + 1) * bucketMs
    }
    return Number.NaN
  }
  return {
    perSecond: count / elapsedS,
    p50Ms: quantile(0.5),
    p99Ms: quantile(0.99),
    maxMs,
    errors,
  }
}

if (import.meta.main) {
  console.log(JSON.stringify(pumped(JSON.parse(process.argv[2] ?? '') as Pump)))
}
