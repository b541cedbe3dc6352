import { describe, expect, test } from 'bun:test'
import type { Clock } from '../../src/clock.ts'
import type { LogLine } from '../../src/exec/call-log.ts'
import { CallOutput } from '../../src/exec/output.ts'
import { seed } from '../watch/seed.ts'

const encoder = new TextEncoder()

class ManualClock implements Clock {
  ms = 1_000_000
  nowMs(): number {
    return this.ms
  }
  monotonicMs(): number {
    return this.ms
  }
}

function capture(limits: { callLogBytesMax?: number; logBytesMax?: number } = {}) {
  const clock = new ManualClock()
  const output = new CallOutput({
    limits: { callLogBytesMax: 1 << 20, logBytesMax: 16 << 20, ...limits },
    clock,
  })
  const write = (instanceId: string, text: string, stream: 'stdout' | 'stderr' = 'stdout') => {
    void output.output(instanceId, stream, encoder.encode(text))
  }
  return { clock, output, write }
}

function callId(number: number): string {
  return `01TESTCALL${String(number).padStart(16, '0')}`
}

function named(call: string, text: string): string {
  return `\x1e${call}\x1f${text}`
}

function texts(lines: readonly LogLine[] | undefined): string[] | undefined {
  return lines?.map(line => line.text)
}

const a = callId(1)
const b = callId(2)

/** mulberry32: small, seeded, good enough to choose what a noisy function does. */
function randomFrom(start: number): () => number {
  let state = start >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

describe('which call a line belongs to', () => {
  test('the running call, then the last one; start-up output belongs to none', () => {
    const { output, write } = capture()
    output.open('i1', 'f1')
    write('i1', 'starting\n', 'stderr')
    output.begin('i1', 'f1', a)
    write('i1', 'in a\n')
    output.end('i1', a)
    write('i1', 'after a\n')
    output.begin('i1', 'f1', b)
    write('i1', 'in b\n')
    expect(texts(output.ofCall(a))).toEqual(['in a', 'after a'])
    expect(texts(output.ofCall(b))).toEqual(['in b'])
    const all = output.ofFn('f1', 10)
    expect(all.map(line => [line.callId, line.stream, line.text])).toEqual([
      ['', 'stderr', 'starting'],
      [a, 'stdout', 'in a'],
      [a, 'stdout', 'after a'],
      [b, 'stdout', 'in b'],
    ])
    expect(texts(output.ofFn('f1', 2))).toEqual(['after a', 'in b'])
    expect(output.ofFn('f2', 10)).toEqual([])
  })

  test('a prefix names one of several running calls, and is stripped', () => {
    const { output, write } = capture()
    output.begin('i1', 'f1', a)
    output.begin('i1', 'f1', b)
    write('i1', named(a, 'of a\n'))
    for (const byte of named(b, 'of b\n')) write('i1', byte)
    output.end('i1', a)
    write('i1', named(a, 'late\n'))
    write('i1', 'unnamed\n')
    expect(texts(output.ofCall(a))).toEqual(['of a', 'late'])
    expect(texts(output.ofCall(b))).toEqual(['of b', 'unnamed'])
  })

  test('a prefix that names a call of another instance is not believed', () => {
    const { output, write } = capture()
    output.begin('i1', 'f1', a)
    output.begin('i2', 'f2', b)
    write('i2', named(a, 'forged\n'))
    write('i2', named(callId(9), 'invented\n'))
    write('i2', '\x1eshort\n')
    write('i2', named('', 'empty\n'))
    expect(output.ofCall(a)).toEqual([])
    expect(output.ofCall(callId(9))).toBeUndefined()
    expect(texts(output.ofCall(b))).toEqual([
      named(a, 'forged'),
      named(callId(9), 'invented'),
      '\x1eshort',
      named('', 'empty'),
    ])
    expect(output.ofFn('f1', 10)).toEqual([])
  })

  test('a copy gets the lines of its instance that are kept, as they are kept', () => {
    const { output, write } = capture({ callLogBytesMax: 100 })
    const copied: string[] = []
    output.open('i1', 'f1', ({ callId, stream, bytes }) => {
      copied.push(`${callId} ${stream} ${new TextDecoder().decode(bytes)}`)
    })
    output.open('i2', 'f2')
    write('i1', 'start\n', 'stderr')
    output.begin('i1', 'f1', a)
    output.begin('i2', 'f2', b)
    write('i1', named(a, 'of a\n'))
    write('i2', 'elsewhere\n')
    write('i1', `${'x'.repeat(100)}\n`)
    write('i1', 'past the limit\n')
    output.end('i1', a)
    output.begin('i1', 'f1', callId(3))
    write('i1', 'unfinished')
    output.close('i1')
    expect(copied).toEqual([
      ' stderr start',
      `${a} stdout of a`,
      `${a} stdout ----- more than 100 bytes of output, the rest is discarded -----`,
      `${callId(3)} stdout unfinished`,
    ])
  })

  test('an unfinished line is seen, and never joined to the next call', () => {
    const { output, write } = capture()
    output.begin('i1', 'f1', a)
    write('i1', 'no newline')
    expect(texts(output.ofCall(a))).toEqual(['no newline'])
    output.end('i1', a)
    expect(texts(output.ofCall(a))).toEqual(['no newline'])
    output.begin('i1', 'f1', b)
    write('i1', 'b here')
    expect(texts(output.ofCall(a))).toEqual(['no newline'])
    expect(texts(output.ofCall(b))).toEqual(['b here'])
    output.close('i1')
    expect(texts(output.ofCall(b))).toEqual(['b here'])
  })

  test('tail tells what an instance said before it failed', () => {
    const { output, write } = capture()
    output.open('i1', 'f1')
    for (let line = 0; line < 50; line += 1) write('i1', `line ${line}\n`)
    write('i1', 'Error: bo')
    write('i1', 'om')
    output.close('i1')
    const tail = texts(output.tail('i1')) ?? []
    expect(tail.length).toBe(20)
    expect(tail.at(-1)).toBe('Error: boom')
    expect(output.tail('unknown')).toEqual([])
  })

  test('start-up output of an instance that is opened late is kept under its function', () => {
    const { output, write } = capture()
    write('i1', 'early\n')
    output.begin('i1', 'f1', a)
    expect(texts(output.ofFn('f1', 10))).toEqual(['early'])
    expect(output.tail('i1')).toEqual([])
  })

  test('instances that nobody opened are forgotten', () => {
    const { output, write } = capture()
    for (let at = 0; at < 2000; at += 1) write(`stray ${at}`, 'x\n')
    expect(output.tail('stray 0')).toEqual([])
    expect(output.tail('stray 1999').length).toBe(1)
    expect(output.stats.heldBytes).toBe(0)
  })
})

describe('bounds', () => {
  test('a call is cut at its limit, and says so once', () => {
    const { output, write } = capture({ callLogBytesMax: 4096 })
    output.begin('i1', 'f1', a)
    for (let line = 0; line < 1000; line += 1) write('i1', `${'x'.repeat(88)}\n`)
    write('i1', named(a, `${'y'.repeat(88)}\n`))
    const lines = texts(output.ofCall(a)) ?? []
    expect(lines.length).toBe(Math.floor(4096 / 100) + 1)
    expect(lines.at(-1)).toContain('more than 4096 bytes of output')
    expect(output.stats.discardedBytesTotal).toBeGreaterThan(80_000)
    output.begin('i1', 'f1', b)
    write('i1', 'fresh\n')
    expect(texts(output.ofCall(b))).toEqual(['fresh'])
  })

  test('start-up output of a function is a window over the newest', () => {
    const { output, write } = capture({ callLogBytesMax: 4096 })
    output.open('i1', 'f1')
    for (let line = 0; line < 1000; line += 1) write('i1', `${line}\n`)
    expect(output.stats.heldBytes).toBeLessThan(8192)
    expect(texts(output.ofFn('f1', 1))).toEqual(['999'])
  })

  test('memory stays under the limit, and noisy functions do not push out a quiet one', () => {
    const logBytesMax = 1 << 20
    const { output, write } = capture({ logBytesMax, callLogBytesMax: 1 << 16 })
    const random = randomFrom(seed)
    output.begin('quiet', 'fn-quiet', a)
    write('quiet', 'I am still here\n')
    const firstOfNoisiest = callId(9)
    output.begin('i0', 'fn0', firstOfNoisiest)
    write('i0', 'soon forgotten\n')
    output.end('i0', firstOfNoisiest)
    for (let call = 10; call < 3000; call += 1) {
      const noisy = Math.floor(random() * random() * 8)
      const instance = `i${noisy}`
      output.begin(instance, `fn${noisy}`, callId(call))
      const lines = Math.floor(random() * 40)
      for (let line = 0; line < lines; line += 1) {
        write(instance, `${'z'.repeat(Math.floor(random() * random() * 4000))}\n`)
      }
      output.end(instance, callId(call))
      expect(output.stats.heldBytes).toBeLessThanOrEqual(logBytesMax)
    }
    expect(texts(output.ofCall(a))).toEqual(['I am still here'])
    expect(output.stats.heldBytes).toBeGreaterThan(logBytesMax / 2)
    expect(output.ofCall(firstOfNoisiest) ?? []).toEqual([])
    const newest = output.ofFn('fn0', 10)
    expect(newest.length).toBe(10)
    output.forgetFn('fn0')
    expect(output.ofFn('fn0', 100)).toEqual([])
    for (let fn = 1; fn < 8; fn += 1) output.forgetFn(`fn${fn}`)
    output.forgetFn('fn-quiet')
    expect(output.stats.heldBytes).toBe(0)
  })

  test('the newest lines of many interleaved calls come in their order', () => {
    const { output, write } = capture()
    const random = randomFrom(seed)
    for (let call = 0; call < 20; call += 1) output.begin('i1', 'f1', callId(call))
    const written: string[] = []
    for (let line = 0; line < 2000; line += 1) {
      write('i1', named(callId(Math.floor(random() * 20)), `line ${line}\n`))
      written.push(`line ${line}`)
    }
    for (const count of [0, 1, 7, 500, 2000, 10_000]) {
      expect(texts(output.ofFn('f1', count))).toEqual(count === 0 ? [] : written.slice(-count))
    }
  })
})

describe('a flood', () => {
  test('the reader is held to 10 MB/s after a burst', async () => {
    const { clock, output } = capture()
    output.begin('i1', 'f1', a)
    const chunk = encoder.encode(`${'x'.repeat(65_535)}\n`)
    let chunks = 0
    let waiting: void | Promise<void>
    do {
      waiting = output.output('i1', 'stdout', chunk)
      chunks += 1
    } while (waiting === undefined)
    expect(chunks * chunk.length).toBeGreaterThan(1_000_000)
    expect(chunks * chunk.length).toBeLessThan(1_200_000)
    await waiting
    clock.ms += 1000
    expect(output.output('i1', 'stdout', chunk)).toBeUndefined()
    output.begin('i2', 'f2', b)
    expect(output.output('i2', 'stdout', encoder.encode('quiet\n'))).toBeUndefined()
  })

  test('200 MB do not grow memory', () => {
    const { clock, output } = capture()
    output.begin('i1', 'f1', a)
    const chunk = encoder.encode(`${'some line of output\n'.repeat(3276)}`)
    for (let sent = 0; sent < 200e6; sent += chunk.length) {
      clock.ms += 100
      void output.output('i1', 'stdout', chunk)
    }
    expect(output.stats.heldBytes).toBeLessThan(1.2 * (1 << 20))
    expect(output.stats.discardedBytesTotal).toBeGreaterThan(198e6)
  })
})

describe('following', () => {
  test('lines come in batches until the end', async () => {
    const { output, write } = capture()
    const batches: string[][] = []
    const end = output.follow('f1', lines => {
      batches.push(lines.map(line => line.text))
    })
    output.begin('i1', 'f1', a)
    output.begin('i2', 'f2', b)
    write('i1', 'one\ntwo\n')
    write('i2', 'of another function\n')
    await Bun.sleep(1)
    write('i1', 'three\n')
    await Bun.sleep(1)
    end()
    end()
    write('i1', 'four\n')
    await Bun.sleep(1)
    expect(batches).toEqual([['one', 'two'], ['three']])
    expect(output.stats.followers).toBe(0)
  })

  test('a slow reader loses lines, is told how many, and holds back nobody', async () => {
    const { output, write } = capture({ callLogBytesMax: 1 << 20 })
    const seen: LogLine[] = []
    let release = Promise.withResolvers<void>()
    const end = output.follow('f1', async lines => {
      seen.push(...lines)
      await release.promise
    })
    output.begin('i1', 'f1', a)
    write('i1', 'first\n')
    await Bun.sleep(1)
    for (let line = 0; line < 5000; line += 1) write('i1', `line ${line}\n`)
    release.resolve()
    release = Promise.withResolvers()
    release.resolve()
    await Bun.sleep(5)
    end()
    expect(seen[0]?.text).toBe('first')
    const dropped = Number(/(\d+) lines were dropped/.exec(seen[1]?.text ?? '')?.[1])
    expect(dropped).toBeGreaterThanOrEqual(4000)
    expect(seen.length).toBe(2 + 5000 - dropped)
    expect(seen.at(-1)?.text).toBe('line 4999')
    expect(output.ofFn('f1', 10_000).length).toBe(5001)
  })

  test('the number of readers is bounded', () => {
    const { output } = capture()
    const ends = Array.from({ length: 64 }, () => output.follow('f1', () => undefined))
    expect(() => output.follow('f1', () => undefined)).toThrow('Too many clients follow logs')
    for (const end of ends) end()
    output.follow('f1', () => undefined)()
  })
})
