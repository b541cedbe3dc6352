import { expect, test } from 'bun:test'
import { noObserver } from '../../src/raft/observer.ts'
import { Outbox } from '../../src/raft/outbox.ts'
import type { Entry, Message, MessageType } from '../../src/raft/types.ts'

const entry: Entry = { index: 8, term: 2, kind: 'normal', bytes: new Uint8Array(1) }

function message(type: MessageType, to: number, changes: Partial<Message> = {}): Message {
  return {
    ...{ type, from: 1, to, term: 2, logTerm: 2, index: 7, commit: 0, entries: [] },
    ...{ reject: false, rejectHint: 0, snapshot: undefined, context: 0, isTransfer: false },
    ...changes,
  }
}

const commit = (to: number, index: number) => message('MsgApp', to, { commit: index })
const append = (to: number, index: number) =>
  message('MsgApp', to, { commit: index, entries: [entry] })

class Bench {
  readonly sent: string[] = []
  readonly gaps: number[] = []
  nowMs = 100
  timers: (() => void)[] = []
  readonly outbox = new Outbox(
    {
      network: {
        send: messages => {
          for (const { type, to, entries, commit: index } of messages) {
            this.sent.push(`${type} to ${to}: ${entries.length} entries, commit ${index}`)
          }
        },
        sendSnapshot: () => undefined,
      },
      scheduler: {
        monotonicMs: () => this.nowMs,
        soon: run => run(),
        after: (_delayMs, run) => {
          this.timers.push(run)
          return () => {
            this.timers = this.timers.filter(each => each !== run)
          }
        },
      },
      observer: { ...noObserver, heartbeatGap: ms => void this.gaps.push(ms) },
    },
    2,
  )

  taken(): string[] {
    return this.sent.splice(0)
  }

  /** After so many ms. */
  fire(afterMs = 2): void {
    this.nowMs += afterMs
    for (const run of this.timers.splice(0)) run()
  }
}

test('word of a commit waits, and leaves by itself', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7), commit(3, 7)])
  expect([bench.taken(), bench.timers.length]).toEqual([[], 1])
  bench.fire()
  expect(bench.taken()).toEqual([
    'MsgApp to 2: 0 entries, commit 7',
    'MsgApp to 3: 0 entries, commit 7',
  ])
  bench.fire()
  expect(bench.taken()).toEqual([])
})

test('the next append tells it as well', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7), commit(3, 7)])
  bench.outbox.send([append(2, 7)])
  expect(bench.taken()).toEqual(['MsgApp to 2: 1 entries, commit 7'])
  bench.outbox.send([commit(3, 8)])
  bench.fire()
  expect(bench.taken()).toEqual(['MsgApp to 3: 0 entries, commit 8'])
})

test('each waits its own time, however long the timer runs', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7)])
  bench.nowMs += 1
  bench.outbox.send([append(2, 7), commit(2, 8)])
  expect(bench.taken()).toEqual(['MsgApp to 2: 1 entries, commit 7'])
  bench.fire(1)
  expect([bench.taken(), bench.timers.length]).toEqual([[], 1])
  bench.fire(1)
  expect([bench.taken(), bench.timers.length]).toEqual([['MsgApp to 2: 0 entries, commit 8'], 0])
})

test('commits that follow close on each other do not put it off', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7)])
  bench.nowMs += 1
  bench.outbox.send([commit(2, 8)])
  expect(bench.taken()).toEqual([])
  bench.fire(1)
  expect(bench.taken()).toEqual(['MsgApp to 2: 0 entries, commit 8'])
})

test('an append that does not tell it, and all else, lets it go first', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7), append(2, 6)])
  expect(bench.taken()).toEqual([
    'MsgApp to 2: 0 entries, commit 7',
    'MsgApp to 2: 1 entries, commit 6',
  ])
  const later = message('MsgApp', 2, { commit: 9, term: 3, entries: [entry] })
  bench.outbox.send([commit(2, 7), later])
  expect(bench.taken()).toHaveLength(2)
  bench.outbox.send([commit(2, 7), message('MsgReadIndexResp', 2)])
  expect(bench.taken().map(text => text.split(' ')[0])).toEqual(['MsgApp', 'MsgReadIndexResp'])
})

test('it leaves when somebody waits for it, and never after the end', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7)])
  bench.outbox.release()
  expect(bench.taken()).toHaveLength(1)
  bench.outbox.send([commit(2, 8)])
  bench.outbox.close()
  bench.fire()
  bench.outbox.release()
  expect(bench.taken()).toEqual([])
})

test('snapshots are given back, behind what was to go first', () => {
  const bench = new Bench()
  bench.outbox.send([commit(2, 7)])
  const snap = message('MsgSnap', 2)
  expect(bench.outbox.send([snap, append(3, 7)])).toEqual([snap])
  expect(bench.taken()).toEqual([
    'MsgApp to 2: 0 entries, commit 7',
    'MsgApp to 3: 1 entries, commit 7',
  ])
})

test('the time between heartbeats of one term is told', () => {
  const bench = new Bench()
  const beat = () => bench.outbox.send([message('MsgHeartbeat', 2), message('MsgHeartbeat', 3)])
  beat()
  bench.nowMs += 40
  beat()
  bench.outbox.endBeats()
  bench.nowMs += 1000
  beat()
  expect(bench.gaps).toEqual([40])
})
