/**
 * What one seed tries. Swarm testing (Groce et al., 2012): each seed switches whole kinds of faults
 * off and draws how often and how large the others are, since faults of one kind hide others.
 */
import type { MemberLimits } from '../../src/raft/member-options.ts'
import type { Prng } from './prng.ts'

export interface SimOptions {
  /** How long faults go on, in virtual time. */
  readonly faultsMs: number
  readonly firstNodes: number
  /** All know each other from the start, or the first one takes the others in. */
  readonly isBootstrapped: boolean
  /** Which state machine: a small one, or that of the product. */
  readonly machine: 'kv' | 'state-db'
  readonly limits: Partial<MemberLimits>
  readonly net: NetOptions
  readonly disk: DiskOptions
  readonly crash: CrashOptions
  readonly clock: ClockOptions
  readonly churn: ChurnOptions
  readonly load: LoadOptions
  /** After the faults all heal, or only enough for a majority. */
  readonly heal: 'all' | 'majority'
}

/** Chances are per message unless said otherwise; `everyMs` is a mean, 0 for never. */
export interface NetOptions {
  readonly delayMinMs: number
  readonly delayMeanMs: number
  readonly loss: number
  readonly duplicate: number
  readonly corrupt: number
  /** Of a frame that outlives terms and processes. */
  readonly late: number
  readonly lateMaxMs: number
  /** All second copies are late. */
  readonly lateCopies: boolean
  readonly linkQueueMax: number
  /** Messages go as the bytes of the real transport. */
  readonly isEncoded: boolean
  readonly clogEveryMs: number
  readonly partitionEveryMs: number
  readonly partitionMs: number
  readonly flap: number
  readonly snapshotMeanMs: number
  readonly snapshotCut: number
}

export interface DiskOptions {
  /** Of each of the journal's two files. */
  readonly journalBytes: number
  readonly latencyMs: number
  /** Chance that one write takes up to `slowMaxMs`. */
  readonly slow: number
  readonly slowMaxMs: number
  readonly error: number
  readonly fullEveryMs: number
  readonly fullMs: number
  readonly damageEveryMs: number
  readonly wipeEveryMs: number
}

export interface CrashOptions {
  readonly everyMs: number
  readonly downMs: number
  /** Share of crashes that take what was not synced. */
  readonly power: number
  /** Chance at each call of a port. */
  readonly failpoint: number
  /** All at once. */
  readonly blackoutEveryMs: number
}

export interface ClockOptions {
  /** Largest part by which a clock is too fast or too slow. */
  readonly drift: number
  readonly pauseEveryMs: number
  readonly pauseMs: number
}

export interface ChurnOptions {
  readonly everyMs: number
  readonly votersMax: number
  readonly transferEveryMs: number
  /** Chance of proposing a second change without waiting for the first. */
  readonly hasty: number
  readonly explicitJoint: number
  /** The product's own rules decide, and not an operator who tries everything. */
  readonly isAutopilot: boolean
}

export interface LoadOptions {
  readonly clients: number
  readonly keys: number
  /** Requests are at least that long, so that some take many sectors of the log's journal. */
  readonly paddedBytes: number
  readonly thinkMs: number
  readonly timeoutMs: number
  readonly readShare: number
  readonly attemptsMax: number
  readonly burst: number
  /** Everybody rests for a while. */
  readonly quietEveryMs: number
}

export function optionsFrom(prng: Prng): SimOptions {
  const options = calmOptionsFrom(prng)
  const isStormy = prng.chance(0.2)
  if (prng.chance(0.12)) return onAutopilot(options)
  if (prng.chance(0.03)) return onStateDb(options)
  return isStormy ? stormy(options, prng) : options
}

/** It does not see damage before it is found, so that none is made. */
function onAutopilot(options: SimOptions): SimOptions {
  const { churn, disk } = options
  return {
    ...options,
    churn: { ...churn, isAutopilot: true },
    disk: { ...disk, damageEveryMs: 0 },
    heal: 'all',
  }
}

/** It is slow, so it gets less to do. Its commands do not count once by themselves. */
function onStateDb(options: SimOptions): SimOptions {
  const { faultsMs, limits, load } = options
  const electionMs = (limits.tickMs ?? 1) * (limits.electionTick ?? 1)
  return {
    ...options,
    machine: 'state-db',
    faultsMs: Math.min(faultsMs, electionMs * 25),
    limits: { ...limits, flushEveryMax: Math.max(10, limits.flushEveryMax ?? 10) },
    load: { ...load, attemptsMax: 1 },
  }
}

/**
 * Leaders fall often, with entries that others replace, and what was said to them is said again
 * when they lead again: terms meet as they seldom do when each fault comes by itself.
 */
function stormy(options: SimOptions, prng: Prng): SimOptions {
  const { net, churn, limits, load } = options
  const electionMs = (limits.tickMs ?? 1) * (limits.electionTick ?? 1)
  return {
    ...options,
    faultsMs: electionMs * 80,
    firstNodes: prng.pick([3, 5, 5]),
    isBootstrapped: true,
    net: {
      ...net,
      loss: 0,
      duplicate: prng.pick([0.1, 0.4]),
      late: 0,
      lateCopies: true,
      lateMaxMs: electionMs * prng.pick([4, 15]),
      partitionEveryMs: electionMs * prng.pick([3, 6]),
      partitionMs: electionMs * prng.pick([2, 4]),
    },
    crash: { ...options.crash, everyMs: 0, blackoutEveryMs: 0 },
    churn: { ...churn, everyMs: 0, transferEveryMs: electionMs * 2 },
    load: { ...load, clients: 6, thinkMs: electionMs / 20, readShare: 0.2 },
  }
}

function calmOptionsFrom(prng: Prng): SimOptions {
  const sometimes = (probability: number, value: () => number) =>
    prng.chance(probability) ? value() : 0
  const tickMs = prng.pick([10, 20, 50])
  const electionTick = prng.pick([5, 10, 20])
  const electionMs = tickMs * electionTick
  return {
    faultsMs: electionMs * prng.between(20, 80),
    firstNodes: prng.pick([1, 2, 3, 3, 3, 3, 4, 5, 5, 7]),
    isBootstrapped: prng.chance(0.8),
    machine: 'kv',
    limits: limitsFrom(prng, tickMs, electionTick),
    net: netFrom(prng, electionMs, sometimes),
    disk: {
      journalBytes: prng.pick([1, 1, 2, 4, 8, 64]) * 1024,
      latencyMs: prng.pick([0.1, 1, 5, electionMs / 10]),
      slow: sometimes(0.3, () => prng.pick([0.002, 0.02, 0.2])),
      slowMaxMs: prng.pick([electionMs / 2, electionMs * 2, 10_000]),
      error: sometimes(0.2, () => prng.pick([0.0005, 0.005])),
      fullEveryMs: sometimes(0.35, () => electionMs * prng.between(5, 40)),
      fullMs: electionMs * prng.between(1, 8),
      damageEveryMs: sometimes(0.15, () => electionMs * prng.between(10, 40)),
      wipeEveryMs: sometimes(0.2, () => electionMs * prng.between(10, 40)),
    },
    crash: {
      everyMs: sometimes(0.7, () => electionMs * prng.pick([1, 3, 10, 30])),
      downMs: electionMs * prng.pick([0.1, 1, 5, 15]),
      power: prng.pick([0, 0.5, 1]),
      failpoint: sometimes(0.3, () => prng.pick([0.0002, 0.002])),
      blackoutEveryMs: sometimes(0.15, () => electionMs * prng.between(10, 40)),
    },
    clock: {
      drift: sometimes(0.5, () => prng.pick([0.01, 0.1, 0.4])),
      pauseEveryMs: sometimes(0.3, () => electionMs * prng.between(2, 20)),
      pauseMs: electionMs * prng.pick([0.5, 1.5, 4, 12]),
    },
    churn: {
      everyMs: sometimes(0.6, () => electionMs * prng.pick([0.5, 2, 6])),
      votersMax: prng.pick([3, 5, 7]),
      transferEveryMs: sometimes(0.4, () => electionMs * prng.pick([0.5, 3, 10])),
      hasty: sometimes(0.3, () => 0.3),
      explicitJoint: sometimes(0.3, () => 0.3),
      isAutopilot: false,
    },
    load: {
      clients: prng.between(1, 6),
      keys: prng.between(1, 4),
      paddedBytes: sometimes(0.3, () => prng.pick([700, 1500])),
      thinkMs: electionMs * prng.pick([0.02, 0.1, 0.5]),
      timeoutMs: electionMs * prng.pick([1, 3, 8]),
      readShare: prng.pick([0, 0.3, 0.6]),
      attemptsMax: prng.pick([1, 3, 6]),
      burst: sometimes(0.3, () => 0.1),
      quietEveryMs: sometimes(0.2, () => electionMs * prng.between(5, 20)),
    },
    heal: prng.chance(0.75) ? 'all' : 'majority',
  }
}

function limitsFrom(prng: Prng, tickMs: number, electionTick: number): Partial<MemberLimits> {
  return {
    tickMs,
    electionTick,
    heartbeatTick: prng.pick([1, 2]),
    inflightMax: prng.pick([1, 2, 8, 256]),
    inflightBytesMax: prng.pick([100, 1000, 16_000_000]),
    batchMax: prng.pick([1, 3, 1000]),
    batchBytesMax: prng.pick([1, 200, 1_000_000]),
    applyBytesMax: prng.pick([1, 200, 65_536]),
    cacheBytesMax: prng.pick([1, 300, 16_000_000]),
    pendingMax: prng.pick([2, 20, 10_000]),
    trailingMax: prng.pick([0, 1, 5, 50, 10_000]),
    flushEveryMax: prng.pick([0, 1, 10, 1000]),
    checkedAtStart: prng.pick([0, 3, 1000]),
    checkedPieceBytes: prng.pick([1, 100, 1_000_000]),
    retryMs: tickMs * prng.between(1, 20),
    unknownAfterMs: tickMs * electionTick * prng.between(1, 6),
    inboxMax: prng.pick([4, 64, 4096]),
  }
}

function netFrom(
  prng: Prng,
  electionMs: number,
  sometimes: (probability: number, value: () => number) => number,
): NetOptions {
  return {
    delayMinMs: prng.pick([0.1, 1, electionMs / 100]),
    delayMeanMs: prng.pick([0, 0.5, electionMs / 50, electionMs / 10]),
    loss: sometimes(0.5, () => prng.pick([0.01, 0.05, 0.2, 0.4])),
    duplicate: sometimes(0.4, () => prng.pick([0.01, 0.1, 0.4])),
    corrupt: sometimes(0.3, () => prng.pick([0.001, 0.02])),
    late: sometimes(0.4, () => prng.pick([0.001, 0.01, 0.05, 0.2])),
    lateMaxMs: electionMs * prng.pick([2, 8, 30]),
    lateCopies: false,
    linkQueueMax: prng.pick([4, 50, 10_000]),
    isEncoded: prng.chance(0.25),
    clogEveryMs: sometimes(0.3, () => electionMs * prng.between(1, 10)),
    partitionEveryMs: sometimes(0.6, () => electionMs * prng.pick([2, 5, 15])),
    partitionMs: electionMs * prng.pick([0.5, 2, 5, 15]),
    flap: sometimes(0.3, () => 0.5),
    snapshotMeanMs: electionMs * prng.pick([0.02, 0.5, 3]),
    snapshotCut: sometimes(0.4, () => prng.pick([0.1, 0.5])),
  }
}
