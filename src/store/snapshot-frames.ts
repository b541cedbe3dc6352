/**
 * A file on its way to another node: frames of u32 length, u32 CRC-32C and that many bytes, little
 * endian. A receiver keeps whole frames only, so that it can go on where a connection broke.
 */
import { open } from 'node:fs/promises'
import { FndError } from '../errors.ts'
import { crc32c } from '../raft/crc32c.ts'

export const frameBytesMax = 1024 * 1024
/** What is sent in one, so that checksum and encryption of a piece hold nobody up for long. */
export const frameBytesAim = 256 * 1024
const headerBytes = 8

/** The file from `fromOffset` on. */
export async function* framesOf(
  path: string,
  fromOffset: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await open(path, 'r')
  try {
    for (let offset = fromOffset; ; ) {
      const frame = new Uint8Array(headerBytes + frameBytesAim)
      const { bytesRead } = await file.read(frame, headerBytes, frameBytesAim, offset)
      if (bytesRead === 0) return
      const view = new DataView(frame.buffer)
      view.setUint32(0, bytesRead, true)
      view.setUint32(4, crc32c(frame, headerBytes, headerBytes + bytesRead), true)
      yield frame.subarray(0, headerBytes + bytesRead)
      offset += bytesRead
    }
  } finally {
    await file.close()
  }
}

/**
 * The contents of the frames in a stream that may be cut up in any way. Throws `FndError`
 * `snapshot-invalid` at a wrong checksum, a frame that is too long, or an end inside of one.
 */
export async function* contentsOf(
  stream: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const header = new Uint8Array(headerBytes)
  const view = new DataView(header.buffer)
  let contents = new Uint8Array()
  /** Bytes of the header and of the contents that are there. */
  let have = 0
  for await (const chunk of stream) {
    for (let at = 0; at < chunk.length; ) {
      const isHeader = have < headerBytes
      const target = isHeader ? header : contents
      const from = isHeader ? have : have - headerBytes
      const piece = chunk.subarray(at, at + target.length - from)
      target.set(piece, from)
      at += piece.length
      have += piece.length
      if (have < headerBytes) continue
      if (isHeader) contents = new Uint8Array(mustBeLength(view.getUint32(0, true)))
      if (have < headerBytes + contents.length) continue
      if (crc32c(contents) !== view.getUint32(4, true)) {
        throw new FndError('snapshot-invalid', { detail: 'a piece does not have its checksum' })
      }
      yield contents
      have = 0
    }
  }
  if (have > 0) throw new FndError('snapshot-invalid', { detail: 'it ends inside of a piece' })
}

function mustBeLength(length: number): number {
  if (length > 0 && length <= frameBytesMax) return length
  throw new FndError('snapshot-invalid', { detail: `a piece of ${length} bytes` })
}
