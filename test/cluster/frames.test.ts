import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  type FrameKind,
  FrameReader,
  frameKinds,
  headFrame,
  helloBytesMax,
  jsonFrame,
  makeFrame,
  splitHead,
} from '../../src/cluster/frames.ts'
import { seeded } from '../seed.ts'

const kinds = Object.values(frameKinds)

/** Pushes `bytes` in pieces of the given sizes, over and over. */
function readIn(bytes: Uint8Array, sizes: readonly number[]) {
  const reader = new FrameReader()
  const frames: { kind: FrameKind; payload: number[] }[] = []
  let fault: string | undefined
  for (let at = 0, turn = 0; at < bytes.length && fault === undefined; turn++) {
    const size = sizes[turn % sizes.length] as number
    const chunk = bytes.subarray(at, at + size)
    const take = (kind: FrameKind, payload: Uint8Array) =>
      frames.push({ kind, payload: [...payload] })
    fault = reader.push(chunk, take, () => true)
    at += size
  }
  return { frames, fault }
}

const sizes = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 })

describe('frames', () => {
  test('come out whole, however the bytes are cut', () => {
    const frame = fc.tuple(fc.constantFrom(...kinds), fc.uint8Array({ maxLength: 60 }))
    fc.assert(
      fc.property(fc.array(frame), sizes, (frames, pieces) => {
        const bytes = Buffer.concat(frames.map(([kind, payload]) => makeFrame(kind, payload)))
        expect(readIn(bytes, pieces)).toEqual({
          frames: frames.map(([kind, payload]) => ({ kind, payload: [...payload] })),
          fault: undefined,
        })
      }),
      seeded(),
    )
  })

  test('any bytes are frames or a fault', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), sizes, (bytes, pieces) => {
        const { frames, fault } = readIn(bytes, pieces)
        return frames.length <= bytes.length / 5 && (fault === undefined || fault.length > 0)
      }),
      seeded(1000),
    )
  })

  test('a length beyond the bound is a fault before anything is allocated', () => {
    const head = new Uint8Array([0xff, 0xff, 0xff, 0xff, frameKinds.hello])
    expect(readIn(head, [5]).fault).toBe(
      `a frame of 4294967295 bytes where ${helloBytesMax} are allowed`,
    )
    expect(readIn(new Uint8Array([0, 0, 0, 0, 1]), [1]).fault).toBe('a frame without a kind')
    expect(readIn(new Uint8Array([1, 0, 0, 0, 99]), [5]).fault).toContain('unknown kind of frame')
  })

  test('after one that ends the connection are not read', () => {
    const reader = new FrameReader()
    let count = 0
    const two = Buffer.concat([jsonFrame(frameKinds.hello, 1), jsonFrame(frameKinds.hello, 2)])
    reader.push(
      two,
      () => count++,
      () => count === 0,
    )
    expect(count).toBe(1)
  })
})

describe('a head and a body', () => {
  test('come apart as they were put together', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.uint8Array(), (head, body) => {
        const frame = headFrame(frameKinds.request, new Uint8Array([1, 2, 3, 4]), head, body)
        const split = splitHead(frame.subarray(5 + 4))
        expect(split?.head).toEqual(JSON.parse(JSON.stringify(head)))
        expect([...(split?.body ?? [])]).toEqual([...body])
      }),
      seeded(),
    )
  })

  test('are not found in other bytes', () => {
    expect(splitHead(new Uint8Array([1, 0, 0]))).toBeUndefined()
    expect(splitHead(new Uint8Array([9, 0, 0, 0, 0x31]))).toBeUndefined()
    expect(splitHead(new Uint8Array([1, 0, 0, 0, 0x7b]))).toBeUndefined()
    expect(splitHead(new Uint8Array([1, 0, 0, 0, 0xff]))).toBeUndefined()
  })
})
