/** How the parts of a cluster see each other: peers that can be called, and handlers for calls. */
import type { NodeId } from '../raft/types.ts'

/** A request to a peer and its answer: at most `callBytesMax` each. */
export const callBytesMax = 9 * 1024 * 1024

export interface PeerCall {
  readonly from: NodeId
  readonly method: string
  /** Small and JSON; what does not fit there goes into `body`. */
  readonly head: unknown
}

export interface PeerState {
  readonly id: NodeId
  readonly address: string
  readonly isConnected: boolean
  /** Round trip of the last ping, undefined before the first. */
  readonly rttMs: number | undefined
  /** When the last byte arrived, on the monotonic clock; undefined if never. */
  readonly lastHeardMs: number | undefined
  /** Its wall clock less ours, as the last hello or ping told. */
  readonly skewMs: number | undefined
}

/** Everything travels over mutual TLS. All reject with `FndError`. */
export interface Peers {
  /**
   * `peer-unreachable`: it was not sent, so that asking again is safe. `peer-outcome-unknown`: it
   * was sent, and the answer did not come in time. An `FndError` that the handler threw arrives as
   * the same code and detail.
   */
  call(
    to: NodeId,
    method: string,
    head: unknown,
    options?: { readonly body?: Uint8Array; readonly timeoutMs?: number },
  ): Promise<{ readonly head: unknown; readonly body: Uint8Array }>
  /** A body of any size, on a connection of its own. Resolves with the handler's answer. */
  upload(
    to: NodeId,
    method: string,
    head: unknown,
    body: AsyncIterable<Uint8Array>,
  ): Promise<unknown>
  /** The other way: resolves when the answer begins. The iteration throws if it is cut short. */
  download(
    to: NodeId,
    method: string,
    head: unknown,
  ): Promise<{ readonly head: unknown; readonly body: AsyncIterable<Uint8Array> }>
  states(): readonly PeerState[]
}

export interface PeerHandlers {
  readonly calls: Readonly<
    Record<
      string,
      (
        call: PeerCall,
        body: Uint8Array,
      ) => Promise<{ readonly head: unknown; readonly body?: Uint8Array }>
    >
  >
  readonly uploads: Readonly<
    Record<string, (call: PeerCall, body: AsyncIterable<Uint8Array>) => Promise<unknown>>
  >
  readonly downloads: Readonly<
    Record<
      string,
      (
        call: PeerCall,
      ) => Promise<{ readonly head: unknown; readonly body: AsyncIterable<Uint8Array> }>
    >
  >
}
