/** Rounds of faults under load, each checked by itself. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomFrom } from '../e2e/fnd.ts'
import type { Cluster } from './member.ts'
import { type FaultName, faultNames, faults, healed } from './nemesis.ts'
import { Workload } from './workload.ts'

const registers = 4
const pairsPerMember = 1
const calmMs = 400
/** How long a fault lasts, at least and at most. */
const faultMsMin = 700
const faultMsMax = 2700

export interface RoundsReport {
  readonly rounds: number
  readonly byFault: ReadonlyMap<FaultName, number>
  readonly operations: number
  readonly acknowledged: number
  /** From the end of a fault until all nodes served again; the longest. */
  readonly recoveryMsMax: number
}

/**
 * Throws at the first round that shows a fault, with the seed and where its history lies. All kinds
 * of faults come in turn, in an order drawn from the seed.
 */
export async function runRounds(
  cluster: Cluster,
  count: number,
  seed: number,
  names: readonly FaultName[] = faultNames,
  say: (line: string) => void = () => {},
): Promise<RoundsReport> {
  const random = randomFrom(seed)
  const byFault = new Map<FaultName, number>()
  let [operations, acknowledged, recoveryMsMax] = [0, 0, 0]
  let waiting: FaultName[] = []
  for (let round = 1; round <= count; round += 1) {
    if (waiting.length === 0) waiting = shuffled(names, random)
    const fault = waiting.pop() ?? names[0]
    if (fault === undefined) throw new Error('there is no fault to choose')
    const workload = new Workload(cluster.members, `s${seed}-${round}`, random)
    const { recoveryMs } = await played(cluster, workload, fault, random).catch(cause => {
      const path = saved(cluster, workload, `${seed}-${cluster.members.length}-${round}`)
      throw new Error(`round ${round}, ${fault}, seed ${seed}, see ${path}: ${cause.message}`)
    })
    byFault.set(fault, (byFault.get(fault) ?? 0) + 1)
    operations += workload.history.length + workload.created.size + workload.sessionReads
    acknowledged += workload.counts.ok
    recoveryMsMax = Math.max(recoveryMsMax, recoveryMs)
    const { ok, refused, unknown } = workload.counts
    say(
      `${round}/${count} ${fault}: ${ok} ok, ${refused} refused, ${unknown} unknown, ` +
        `back in ${Math.round(recoveryMs)} ms`,
    )
  }
  return { rounds: count, byFault, operations, acknowledged, recoveryMsMax }
}

async function played(
  cluster: Cluster,
  workload: Workload,
  fault: FaultName,
  random: () => number,
): Promise<{ recoveryMs: number }> {
  await workload.start(registers, pairsPerMember)
  await Bun.sleep(calmMs)
  const leader = await cluster.waitForLeader()
  const others = shuffled(
    cluster.members.filter(member => member !== leader),
    random,
  )
  await faults[fault]({ cluster, leader, others, random })
  await Bun.sleep(faultMsMin + random() * (faultMsMax - faultMsMin))
  const healedMs = performance.now()
  await healed(cluster)
  const recoveryMs = performance.now() - healedMs
  await Bun.sleep(calmMs)
  await workload.stop()
  await workload.readAll()
  await cluster.agree()
  const wrong = await workload.faults()
  if (wrong.length > 0) throw new Error(wrong.join('\n'))
  await workload.clear()
  return { recoveryMs }
}

function saved(cluster: Cluster, workload: Workload, name: string): string {
  const folder = join(tmpdir(), 'fnd-chaos', name)
  mkdirSync(folder, { recursive: true })
  const { history, created, uncertain, unexpected } = workload
  const content = { history, created: [...created], uncertain: [...uncertain], unexpected }
  writeFileSync(join(folder, 'history.json'), JSON.stringify(content, null, 1))
  return `${folder} and ${cluster.saveLogs()}`
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const keyed = items.map(item => ({ item, key: random() }))
  return keyed.sort((a, b) => a.key - b.key).map(({ item }) => item)
}

export function describeRounds(report: RoundsReport, nodes: number): string {
  const { rounds, byFault, operations, acknowledged, recoveryMsMax } = report
  const counted = [...byFault].map(([name, count]) => `  ${String(count).padStart(3)}  ${name}`)
  return [
    `${nodes} nodes, ${rounds} rounds: ${operations} operations checked, ` +
      `${acknowledged} acknowledged, none lost, no stale read, states equal; ` +
      `longest recovery ${Math.round(recoveryMsMax)} ms`,
    ...counted.sort(),
  ].join('\n')
}
