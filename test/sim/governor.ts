/** Who changes the membership in a simulation. */
export interface Governor {
  /** The faults are over: what is lost is mended, and nothing else is begun. */
  isPeaceful: boolean
  /** Nothing that it asked for may still come to be logged. */
  readonly isIdle: boolean
  /** What it still has to do before there is rest. */
  readonly obstacle: string | undefined
}
