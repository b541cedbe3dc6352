/** Bodies of any size over one connection, made and counted without being kept. */
import { connect, type Socket } from 'node:net'
import { rssBytes } from './fnd.ts'

export interface TransferResult {
  readonly status: number
  /** Of the body, less the framing of chunks. */
  readonly bytes: number
  readonly tail: string
}

const pieceBytes = 64 * 1024

function open(port: number): Socket {
  return connect({ port, host: '127.0.0.1' })
}

export interface UploadOptions {
  readonly isChunked: boolean
  /** Waits this long after each MiB. */
  readonly pauseMs?: number
}

/** Sends a body of `bytes` zeros, and reads a short answer. */
export async function upload(
  port: number,
  head: string,
  bytes: number,
  options: UploadOptions,
): Promise<TransferResult> {
  const socket = open(port)
  let text = ''
  let hasEnded = false
  const ended = new Promise<void>(resolve => {
    socket.on('data', chunk => {
      text += chunk.toString('latin1')
    })
    // A server that refuses the rest answers and closes; what is written after that fails.
    socket.on('error', () => undefined)
    socket.on('close', () => {
      hasEnded = true
      resolve()
    })
  })
  const framing = options.isChunked ? 'transfer-encoding: chunked' : `content-length: ${bytes}`
  socket.write(`${head}connection: close\r\n${framing}\r\n\r\n`)
  const plain = Buffer.alloc(pieceBytes)
  const chunk = Buffer.concat([
    Buffer.from(`${pieceBytes.toString(16)}\r\n`),
    plain,
    Buffer.from('\r\n'),
  ])
  const piece = options.isChunked ? chunk : plain
  for (let sent = 0; sent < bytes && !hasEnded; sent += pieceBytes) {
    const drained = socket.write(piece) || new Promise(resolve => socket.once('drain', resolve))
    await Promise.race([drained, ended])
    if (options.pauseMs !== undefined && sent % (1 << 20) === 0) await Bun.sleep(options.pauseMs)
  }
  if (options.isChunked && !hasEnded) socket.write('0\r\n\r\n')
  await ended
  return { status: Number(text.split(' ')[1]), bytes: 0, tail: text.slice(-200) }
}

export interface DownloadOptions {
  /** Reads no more than a MiB in this time. */
  readonly pauseMs?: number
}

/** Reads an answer to its end and counts it. */
export async function download(
  port: number,
  head: string,
  options: DownloadOptions = {},
): Promise<TransferResult> {
  const socket = open(port)
  let total = 0
  let status = 0
  let tail = ''
  let unpaused = 0
  socket.on('data', (data: Buffer) => {
    if (status === 0) {
      status = Number(data.toString('latin1', 9, 12))
      total -= data.indexOf('\r\n\r\n') + 4
    }
    total += data.length
    tail = data.toString('latin1', Math.max(0, data.length - 8))
    unpaused += data.length
    if (options.pauseMs !== undefined && unpaused > 1 << 20) {
      unpaused = 0
      socket.pause()
      setTimeout(() => socket.resume(), options.pauseMs)
    }
  })
  const ended = new Promise<void>((resolve, reject) => {
    socket.on('close', () => resolve())
    socket.on('error', reject)
  })
  socket.write(`${head}connection: close\r\n\r\n`)
  await ended
  return { status, bytes: total, tail }
}

/** The growth of a process's RSS above what it was, at its highest while `work` ran. */
export async function growthBytes<T>(
  pid: number,
  work: () => Promise<T>,
): Promise<{ growth: number; result: T }> {
  const before = rssBytes(pid)
  let highest = before
  const timer = setInterval(() => {
    highest = Math.max(highest, rssBytes(pid))
  }, 5)
  try {
    const result = await work()
    return { growth: Math.max(highest, rssBytes(pid)) - before, result }
  } finally {
    clearInterval(timer)
  }
}
