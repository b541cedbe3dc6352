/** Stores on directories of their own, that spread their bundles over a net in memory. */
import { join } from 'node:path'
import pino from 'pino'
import { BundleServer } from '../../src/cluster/bundle-serve.ts'
import { BundleSpread, type SpreadTiming } from '../../src/cluster/bundle-spread.ts'
import type { ConfState } from '../../src/raft/types.ts'
import { Bundles } from '../../src/store/bundles.ts'
import { type Item, inPieces, nameOf, tarOf } from '../store/bundle-tars.ts'
import { temporaryDir } from '../store/sample.ts'
import { MemoryNet } from './memory-peers.ts'

export const limits = { bytesMax: 8_000_000, filesMax: 100 }

export interface Member {
  readonly id: number
  readonly dir: string
  readonly bundles: Bundles
  readonly spread: BundleSpread
  readonly server: BundleServer
  readonly referenced: Set<string>
}

export function confOf(voters: readonly number[], more: Partial<ConfState> = {}): ConfState {
  const none = { votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }
  return { ...none, voters, ...more }
}

/** Long, so that no test depends on it by chance; those that wait in vain give shorter ones. */
const timing: SpreadTiming = {
  quorumMs: 60_000,
  quorumMsMax: 120_000,
  askMs: 60_000,
  retryMs: 1,
  stallMs: 60_000,
  aheadRetryMs: 1000,
}

export class World implements AsyncDisposable {
  readonly net = new MemoryNet()
  readonly members: Member[] = []
  readonly #dir = temporaryDir()
  conf: ConfState

  constructor(conf: ConfState, count: number, given: Partial<SpreadTiming> = {}) {
    this.conf = conf
    for (let id = 1; id <= count; id += 1) {
      const dir = join(this.#dir.path, String(id))
      const bundles = new Bundles(dir)
      const referenced = new Set<string>()
      const spread = new BundleSpread({
        bundles,
        peers: this.net.peersOf(id),
        view: () => ({ self: id, conf: this.conf }),
        referenced: () => referenced,
        log: pino({ level: 'silent' }),
        timing: { ...timing, ...given },
      })
      const server = new BundleServer(bundles, given.stallMs ?? timing.stallMs)
      this.net.add(id, server.handlers)
      this.members.push({ id, dir, bundles, spread, server, referenced })
    }
  }

  member(id: number): Member {
    const member = this.members[id - 1]
    if (member === undefined) throw new Error(`there is no member ${id}`)
    return member
  }

  holders(hash: string): number[] {
    return this.members.filter(({ bundles }) => bundles.keep(hash)).map(({ id }) => id)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { spread } of this.members) await spread[Symbol.asyncDispose]()
    for (const { server } of this.members) await server[Symbol.asyncDispose]()
    for (const { bundles } of this.members) await bundles[Symbol.asyncDispose]()
    this.#dir[Symbol.dispose]()
  }
}

export async function sample(text: string, items: Item[] = []) {
  const tar = await tarOf([['text', text], ...items])
  return { tar, hash: nameOf(tar), stream: () => inPieces(tar, 10_000) }
}

/** Waits for what comes by itself. */
export async function until(what: string, isTrue: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 30_000
  while (!isTrue()) {
    if (performance.now() > deadlineMs) throw new Error(`in vain: ${what}`)
    await Bun.sleep(2)
  }
}
