import { expect, test } from 'bun:test'
import { isMember } from '../../src/raft/confchange.ts'
import { seeded } from '../seed.ts'
import { Chaos } from './chaos.ts'

const { seed: first } = seeded()
const runs = Number(process.env.FND_CHAOS_RUNS ?? 60)

function expectRecovered({ leader, hosts }: Chaos): void {
  if (leader === undefined) throw new Error('liveness: no leader')
  for (const { id, applied, reads } of hosts) {
    if (!isMember(leader.conf, id)) continue
    if (applied !== leader.applied) throw new Error(`liveness: ${id} is behind`)
    if (reads.size > 0) throw new Error(`liveness: ${id} has reads that do not end`)
  }
}

test(
  `${runs} groups stay safe under faults, and recover when these end`,
  () => {
    const totals: Record<string, number> = {}
    for (let seed = first; seed < first + runs; seed++) {
      const chaos = new Chaos(seed)
      try {
        for (let at = 0; at < 3000; at++) chaos.step()
        chaos.settle()
        if (chaos.isLive) expectRecovered(chaos)
      } catch (error) {
        throw new Error(`${(error as Error).stack} (replay with FND_SEED=${seed})`)
      }
      for (const [name, count] of Object.entries(chaos.counts)) {
        totals[name] = (totals[name] ?? 0) + count
      }
    }
    console.log(totals)
    for (const [name, count] of Object.entries(totals)) {
      expect(count, `${name} happened`).toBeGreaterThan(runs / 4)
    }
  },
  60_000 + runs * 1000,
)
