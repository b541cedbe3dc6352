/**
 * Changes that come to any node. The command goes to the leader once, which stamps it with its own
 * time; the answer goes out when this node has applied it too, so that what a client wrote it can
 * read here. What was surely not sent, or refused, may be asked again: `no-leader`, `no-quorum`.
 * What was sent and not answered may be kept or not: `outcome-unknown`. It is never sent twice.
 */
import { FndError } from '../errors.ts'
import type { NodeId } from '../raft/types.ts'
import { mayBeCommand } from '../store/command-shape.ts'
import type { Command, Outcome } from '../store/commands.ts'
import { decodeJson } from './frames.ts'
import type { PeerHandlers, Peers } from './types.ts'

/** The driver and the codec, as far as they are needed here. */
export interface ProposalPort {
  /** 0: none is known. */
  readonly lead: NodeId
  /**
   * Resolves when it is applied here. Rejects with `FndError`: `no-leader` says that it was not
   * kept, `outcome-unknown` that this is not known.
   */
  propose(command: Command): Promise<{ readonly index: number; readonly outcome: Outcome }>
  readonly appliedIndex: number
  /** The others learn without delay what is committed. */
  tellCommit(): void
  /** After role, leader or term changed, and after entries were applied. Returns how to stop. */
  onChange(listener: () => void): () => void
}

export interface ForwardParts {
  readonly nodeId: NodeId
  readonly member: ProposalPort
  readonly peers: Pick<Peers, 'call'>
  /** Whole milliseconds of the wall clock. */
  readonly nowMs: () => number
  readonly electionTimeoutMs: number
  /** `no-quorum` or `no-leader`, with the reason. */
  readonly whyLeaderless: () => FndError
}

/** Until the answer of the leader. It may have to wait for a slow disk of a majority. */
const answerTimeoutMs = 10_000
/** Requests that wait for an election to end; more are refused at once. */
const waitingMax = 1000

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true })

export class Forwarder {
  readonly #parts: ForwardParts
  #waiting = 0

  constructor(parts: ForwardParts) {
    this.#parts = parts
  }

  /** To be served on the peer port. */
  get calls(): PeerHandlers['calls'] {
    return {
      propose: async (_call, body) => {
        const { member, nodeId, nowMs } = this.#parts
        if (member.lead !== nodeId) {
          throw new FndError('no-leader', { detail: `node ${nodeId} does not lead` })
        }
        const command = decodeJson(body)?.value
        // The version is the leader's own to raise: who does not know it ends at reading it.
        if (!mayBeCommand(command) || command.type === 'cluster.version') {
          throw new FndError('invalid-field', { field: 'command' })
        }
        const { index, outcome } = await member.propose(restamped(command, nowMs()))
        // Whoever asked answers its client when it has applied that itself.
        member.tellCommit()
        return { head: { index }, body: encoder.encode(JSON.stringify(outcome)) }
      },
    }
  }

  propose(command: Command): Promise<Outcome> {
    const { member, nodeId } = this.#parts
    // Most changes come to the leader, and there each promise on their way can be felt.
    if (member.lead === nodeId) return member.propose(command).then(outcomeOf)
    return this.#propose(command)
  }

  async #propose(command: Command): Promise<Outcome> {
    const { member, nodeId } = this.#parts
    const lead = await this.#leader()
    if (lead === nodeId) return (await member.propose(command)).outcome
    const { head, body } = await this.#send(lead, command)
    const { index } = head as { index: number }
    await this.#applied(index)
    return JSON.parse(decoder.decode(body)) as Outcome
  }

  /** Waits for an election that is under way, as long as one takes. */
  async #leader(): Promise<NodeId> {
    const { member, electionTimeoutMs, whyLeaderless } = this.#parts
    if (member.lead !== 0) return member.lead
    const reason = whyLeaderless()
    if (reason.code === 'no-quorum' || this.#waiting >= waitingMax) throw reason
    this.#waiting += 1
    try {
      const isFound = await until(member, () => member.lead !== 0, 4 * electionTimeoutMs)
      if (!isFound) throw whyLeaderless()
      return member.lead
    } finally {
      this.#waiting -= 1
    }
  }

  async #send(lead: NodeId, command: Command) {
    const body = encoder.encode(JSON.stringify(command))
    try {
      return await this.#parts.peers.call(lead, 'propose', {}, { body, timeoutMs: answerTimeoutMs })
    } catch (error) {
      if (!(error instanceof FndError)) throw error
      if (error.code === 'peer-unreachable') {
        throw new FndError('no-leader', {
          detail: `node ${lead}, which led, cannot be reached`,
          cause: error,
        })
      }
      if (error.code === 'peer-outcome-unknown') {
        throw new FndError('outcome-unknown', { cause: error })
      }
      throw error
    }
  }

  /** The change is kept; only that it can be read here is not certain when this rejects. */
  async #applied(index: number): Promise<void> {
    const { member } = this.#parts
    if (await until(member, () => member.appliedIndex >= index, answerTimeoutMs)) return
    throw new FndError('outcome-unknown', {
      message: `The change is kept as entry ${index}, but this node has not applied it yet`,
    })
  }
}

function outcomeOf({ outcome }: { readonly outcome: Outcome }): Outcome {
  return outcome
}

/** Whether `isSo` came true in time. */
export function until(
  member: Pick<ProposalPort, 'onChange'>,
  isSo: () => boolean,
  timeoutMs: number,
): Promise<boolean> {
  if (isSo()) return Promise.resolve(true)
  return new Promise(resolve => {
    const end = (is: boolean) => {
      clearTimeout(timer)
      stop()
      resolve(is)
    }
    const timer = setTimeout(end, timeoutMs, false)
    const stop = member.onChange(() => {
      if (isSo()) end(true)
    })
  })
}

const stamps = new Set(['atMs', 'createdMs', 'updatedMs'])

/**
 * The command with the leader's time, so that times of one cluster come from one clock. Which
 * fields are times the names say: those of the command and of the object it carries.
 */
export function restamped(command: Command, nowMs: number): Command {
  const stamped = Object.entries(command).map(([key, value]) => {
    if (stamps.has(key)) return [key, nowMs]
    if (typeof value !== 'object' || value === null || key === 'patch') return [key, value]
    const fields = Object.entries(value).map(([name, each]) => [
      name,
      stamps.has(name) ? nowMs : each,
    ])
    return [key, Object.fromEntries(fields)]
  })
  return Object.fromEntries(stamped) as Command
}
