/** Why an exchange with a function ended before its last byte. */
export type ExchangeFault =
  /** Nobody listens on the socket. */
  | 'refused'
  /** The connection ended before the reply did. */
  | 'closed'
  | 'bad-reply'
  | 'head-too-large'
  | 'body-too-large'
  /** Somebody on this side broke it off: the caller left, or its time was over. */
  | 'aborted'
  | 'timed-out'

/** The exchange failed before a reply could be handed over. */
export class ExchangeError extends Error {
  override readonly name = 'ExchangeError'
  readonly fault: ExchangeFault
  constructor(fault: ExchangeFault) {
    super(`exchange failed: ${fault}`)
    this.fault = fault
  }
}
