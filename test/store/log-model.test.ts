/**
 * Random writes against a plain list, with a journal so small that it goes home all the time: what
 * a write replaces or drops is at home, in the journal, or on the way. A crash leaves the files as
 * they are at any moment at which all that was written is acknowledged.
 */
import { expect, test } from 'bun:test'
import fc from 'fast-check'
import type { Entry } from '../../src/raft/types.ts'
import type { JournaledLog } from '../../src/store/log.ts'
import { seeded } from '../seed.ts'
import { copyLog, entriesFrom, openLog, temporaryDir, writeLog } from './sample.ts'

const step = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      /** How far back from the end the new entries begin. */
      back: fc.integer({ min: 0, max: 6 }),
      count: fc.integer({ min: 0, max: 8 }),
      /** From 1 KiB on a write goes home at once; seven sectors fill a file. */
      length: fc.oneof(
        { weight: 20, arbitrary: fc.constantFrom(0, 10, 50) },
        { weight: 4, arbitrary: fc.constantFrom(100, 300) },
        { weight: 1, arbitrary: fc.constantFrom(3000, 150_000) },
      ),
      commit: fc.oneof(
        { weight: 2, arbitrary: fc.constant(0) },
        { arbitrary: fc.nat(4), weight: 1 },
      ),
      drop: fc.integer({ min: 0, max: 30 }),
      isNewTerm: fc.boolean(),
      vote: fc.integer({ min: 0, max: 2 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('reset' as const),
      ahead: fc.integer({ min: 0, max: 5 }),
      count: fc.integer({ min: 0, max: 3 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('installed' as const),
      count: fc.integer({ min: 0, max: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('crash' as const),
      /** Turns of the loop after the last write, in which what is under way goes on. */
      turns: fc.integer({ min: 0, max: 4 }),
      isTwice: fc.boolean(),
    }),
  },
)

const fileBytes = 4 * 1024
const opened = (dir: string) => openLog(dir, 0, 1, fileBytes)

test('any sequence of writes leaves what a list would hold, after a crash too', async () => {
  let crashes = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 100, size: 'max' }), async steps => {
      await using stack = new AsyncDisposableStack()
      let dir = stack.use(temporaryDir()).path
      const openIn = async (path: string) => {
        dir = path
        const own = await opened(path)
        stack.defer(() => own.close())
        return own
      }
      let log = await openIn(dir)
      let installing = ''
      /** Every entry since the last reset; none is ever dropped from it. */
      let model: Entry[] = []
      let base = { index: 0, term: 0 }
      let hardState = log.hardState
      for (const given of steps) {
        const last = model.at(-1)?.index ?? base.index
        const { term, vote, commit } = hardState
        if (given.kind === 'reopen') {
          await log.close()
          log = await openIn(dir)
        } else if (given.kind === 'crash') {
          for (let turn = 0; turn < given.turns; turn++) await new Promise(setImmediate)
          for (const _crash of given.isTwice ? [1, 2] : [1]) {
            const crashed = stack.use(temporaryDir()).path
            copyLog(dir, crashed)
            log = await openIn(crashed)
            crashes += 1
          }
        } else if (given.kind === 'installed') {
          const entries = entriesFrom(last + 1, given.count, 10, Math.max(term, 1))
          model = [...model, ...entries]
          hardState = { ...hardState, term: Math.max(term, 1) }
          installing = ''
          await writeLog(log, { entries, hardState, isInstalled: true })
        } else if (given.kind === 'reset') {
          base = { index: Math.max(commit, last) + given.ahead, term: term + 1 }
          model = entriesFrom(base.index + 1, given.count, 10, term + 1)
          hardState = { term: term + 1, vote: 0, commit: base.index }
          installing = `s${base.index}`
          const reset = { ...base, data: installing }
          await writeLog(log, { entries: model, hardState, reset })
        } else {
          const first = Math.max(commit, base.index, last - given.back) + 1
          const isNewTerm = given.isNewTerm || first <= last || term === 0
          const newTerm = isNewTerm ? term + 1 : term
          const entries = entriesFrom(first, given.count, given.length, newTerm)
          if (entries.length > 0) {
            model = [...model.filter(entry => entry.index < first), ...entries]
          }
          const end = model.at(-1)?.index ?? base.index
          hardState = {
            term: newTerm,
            vote: isNewTerm || vote === 0 ? given.vote : vote,
            commit: Math.max(commit, Math.min(end, commit + given.commit)),
          }
          const dropThrough = Math.min(given.drop, hardState.commit)
          await writeLog(log, { entries, hardState, dropThrough })
        }
        expect([log.hardState, log.installing]).toEqual([hardState, installing])
        mustHold(log, model, base)
      }
    }),
    seeded(100),
  )
  expect(crashes).toBeGreaterThan(100)
}, 60_000)

function mustHold(
  log: JournaledLog,
  model: readonly Entry[],
  base: { index: number; term: number },
) {
  const { firstIndex, lastIndex } = log
  expect(lastIndex).toBe(model.at(-1)?.index ?? base.index)
  const held = model.filter(entry => entry.index >= firstIndex)
  expect(held.length).toBe(lastIndex - firstIndex + 1)
  const terms = new Map([
    [base.index, base.term],
    ...model.map(({ index, term }) => [index, term] as const),
  ])
  for (let index = firstIndex - 1; index <= lastIndex; index++) {
    expect(log.term(index)).toBe(terms.get(index) as number)
  }
  expect([log.term(firstIndex - 2), log.term(lastIndex + 1)]).toEqual([undefined, undefined])
  const read = log.read(firstIndex, Number.POSITIVE_INFINITY)
  expect(read.map(({ index, term, bytes }) => [index, term, bytes.length, bytes[0]])).toEqual(
    held.map(({ index, term, bytes }) => [index, term, bytes.length, bytes[0]]),
  )
  const middle = (firstIndex + lastIndex) >> 1
  if (middle >= firstIndex && middle <= lastIndex) {
    expect(log.read(middle, 1)[0]?.index).toBe(middle)
  }
}
