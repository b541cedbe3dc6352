/**
 * The format `default`: a container for each call. Its stdin is the body, its stdout the answer,
 * its exit code says whether it worked.
 */
import { FndError } from '../../errors.ts'
import type { Exit, FnSpec } from '../driver.ts'
import type { OneShot, Stdio } from './bridge.ts'
import { CallerGone, type ServedCall } from './bridge-socket.ts'
import { type FormatCall, ironPayload, readCall } from './format-call.ts'
import { callEnv } from './format-env.ts'
import { replyHead } from './format-reply.ts'
import { sniffedType } from './sniff.ts'
import { ContainerGone, fail, ReplyWriter } from './talk.ts'

/**
 * Output up to this size waits for the exit code, so that a failure is told as one; of longer
 * output the head goes out before, and a failure breaks it off.
 */
const heldBytesMax = 64 * 1024

export class ColdTalk {
  readonly #spec: FnSpec
  readonly #oneShot: OneShot

  constructor(spec: FnSpec, oneShot: OneShot) {
    this.#spec = spec
    this.#oneShot = oneShot
  }

  async serve(served: ServedCall): Promise<void> {
    try {
      const call = readCall(served.head, this.#spec.fnId)
      const container = await this.#oneShot.run(callEnv(this.#spec, call), served.gone)
      const payload = this.#spec.dialect === 'iron' ? ironPayload(call) : undefined
      void upload(served, container.stdin, payload)
      await download(served, call, container.stdout, container.exited)
      served.finish()
    } catch (cause) {
      // Every call has a container of its own, so there is none to be unfit.
      await fail(served, cause, true)
    }
  }
}

async function upload(
  served: ServedCall,
  stdin: Stdio['stdin'],
  payload: Uint8Array | undefined,
): Promise<void> {
  if (payload !== undefined) {
    await taken(stdin, payload)
    return stdin.end()
  }
  try {
    for (;;) {
      const piece = await served.read()
      if (piece === undefined) return stdin.end()
      if (!(await taken(stdin, piece))) return
    }
  } catch (cause) {
    // Either the caller left, and the container is killed, or the answer is whole.
    if (!(cause instanceof CallerGone)) throw cause
  }
}

/** A program need not read its input, and may end before all of it came: then false. */
async function taken(stdin: Stdio['stdin'], bytes: Uint8Array): Promise<boolean> {
  try {
    await stdin.write(bytes)
    return true
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause
    return false
  }
}

async function download(
  served: ServedCall,
  call: FormatCall,
  stdout: ReadableStream<Uint8Array>,
  exited: Promise<Exit>,
): Promise<void> {
  const reader = stdout.getReader() as ReadableStreamDefaultReader<Uint8Array>
  const held: Uint8Array[] = []
  let heldBytes = 0
  const writer = new ReplyWriter(served, 'chunked')
  for (;;) {
    const piece = await readFrom(reader, exited)
    if (piece === undefined) break
    if (served.isReplied) {
      await writer.write(null, piece, false)
      continue
    }
    held.push(piece)
    heldBytes += piece.length
    if (heldBytes <= heldBytesMax) continue
    const first = Buffer.concat(held)
    await writer.write(replyHead(call, null, sniffedType(first), 'chunked'), first, false)
  }
  const failure = failureOf(await exited)
  if (failure !== undefined) throw failure
  if (served.isReplied) return writer.write(null, nothing, true)
  const body = Buffer.concat(held)
  const head = replyHead(call, null, sniffedType(body), body.length)
  await new ReplyWriter(served, body.length).write(head, body, true)
}

const nothing = new Uint8Array(0)

/** A piece of output; undefined at its end. */
async function readFrom(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  exited: Promise<Exit>,
): Promise<Uint8Array | undefined> {
  try {
    return (await reader.read()).value
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause
    // A part of the output must not pass for the whole, however well the program ended.
    throw failureOf(await exited) ?? new ContainerGone('its output broke off', { cause })
  }
}

function failureOf(exit: Exit): FndError | undefined {
  if (exit.outOfMemory) return new FndError('function-out-of-memory')
  if (exit.code === 0) return undefined
  const detail = exit.signal ?? `exit code ${exit.code}`
  return new FndError('function-failed', { detail })
}
