/** How long each node was silent, and for how long it was well: pure bookkeeping over samples. */
import type { NodeId } from '../raft/types.ts'
import type { NodeHealth } from './autopilot.ts'

interface Track {
  heardMs: number
  /** Since when it was healthy in every sample. */
  healthySinceMs: number | undefined
}

export class HealthBook {
  readonly #healthyWithinMs: number
  readonly #tracks = new Map<NodeId, Track>()

  /** Silence up to which a node counts as healthy. */
  constructor(healthyWithinMs: number) {
    this.#healthyWithinMs = healthyWithinMs
  }

  /**
   * `heard`: when each was last heard, undefined for never. Who was never heard counts as heard
   * when it was first asked about, so that nobody is dead before there was time to hear it.
   */
  sample(heard: ReadonlyMap<NodeId, number | undefined>, nowMs: number): void {
    for (const id of this.#tracks.keys()) if (!heard.has(id)) this.#tracks.delete(id)
    for (const [id, heardMs] of heard) {
      const track = this.#tracks.get(id) ?? { heardMs: nowMs, healthySinceMs: undefined }
      if (heardMs !== undefined) track.heardMs = Math.max(track.heardMs, heardMs)
      const isHealthy = heardMs !== undefined && nowMs - heardMs <= this.#healthyWithinMs
      track.healthySinceMs = isHealthy ? (track.healthySinceMs ?? nowMs) : undefined
      this.#tracks.set(id, track)
    }
  }

  /** `lag`: as the leader knows it. Of a node that was never sampled: silent for ever. */
  of(id: NodeId, lag: number, nowMs: number): NodeHealth {
    const track = this.#tracks.get(id)
    if (track === undefined) {
      return { silentMs: Number.POSITIVE_INFINITY, healthyForMs: undefined, lag }
    }
    const { heardMs, healthySinceMs } = track
    return {
      silentMs: Math.max(0, nowMs - heardMs),
      healthyForMs: healthySinceMs === undefined ? undefined : nowMs - healthySinceMs,
      lag,
    }
  }

  /** A new leader begins to wait for the others: their silence before that does not count. */
  restart(nowMs: number): void {
    for (const track of this.#tracks.values()) track.heardMs = Math.max(track.heardMs, nowMs)
  }
}
