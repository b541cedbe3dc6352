/** What the metrics read from the rest of fnd, each part behind the smallest face that serves. */

/** Instances by what they do now. `wait`: not started yet for want of memory or of a turn. */
export interface InstanceCounts {
  readonly wait: number
  readonly start: number
  readonly idle: number
  readonly paused: number
  readonly busy: number
}

export interface PoolStats {
  readonly memoryUsedBytes: number
  readonly memoryBytesMax: number
  /** Calls that wait for a slot, on the node. */
  readonly waiting: number
  readonly spareWorkers: number
  readonly startsTotal: number
  readonly startFailuresTotal: number
  /** Idle instances that made room for others. */
  readonly evictionsTotal: number
  readonly instances: InstanceCounts
  /** The same by function; only functions that have instances. */
  readonly fns: Iterable<FnInstances>
}

export interface FnInstances extends InstanceCounts {
  readonly appId: string
  readonly fnId: string
  readonly image: string
}

export interface RaftStats {
  readonly term: number
  readonly commitIndex: number
  readonly appliedIndex: number
  readonly lastIndex: number
  readonly logEntries: number
  readonly isLeader: boolean
  readonly hasLeader: boolean
  readonly isVoter: boolean
}

/** Another member, as this one sees it. */
export interface RaftPeerStats {
  readonly id: number
  readonly isConnected: boolean
  /** Messages that were not sent, for want of a connection or of room. */
  readonly droppedTotal: number
  /** Entries that it has not confirmed; only the leader knows. */
  readonly matchLag: number | undefined
}

/** Of `BundleSpread`. */
export interface BundleStats {
  readonly sentTotal: number
  readonly sentBytesTotal: number
  readonly sendFailuresTotal: number
  readonly fetchedTotal: number
  readonly fetchedBytesTotal: number
  readonly fetchFailuresTotal: number
  readonly missing: number
  /** Calls that wait for one. */
  readonly callsHeld: number
}

/** Of `CallOutput`. */
export interface LogStats {
  readonly heldBytes: number
  readonly linesTotal: number
  readonly discardedBytesTotal: number
  readonly followers: number
}

/** Of `SyslogSender`. */
export interface SyslogStats {
  readonly sentTotal: number
  readonly droppedTotal: number
  readonly failuresTotal: number
  readonly heldBytes: number
  readonly connections: number
}

/** Of `Images`. */
export interface ImageStats {
  readonly images: number
  readonly bytes: number
  readonly removed: number
  readonly pulls: number
  readonly pullFailures: number
}

/** Each is asked once per scrape. What is absent has no series. */
export interface MetricSources {
  readonly pool?: () => PoolStats
  readonly raft?: () => RaftStats
  /** Absent: there are no others. */
  readonly peers?: () => readonly RaftPeerStats[]
  readonly bundles?: () => BundleStats
  readonly logs?: () => LogStats
  readonly syslog?: () => SyslogStats
  readonly images?: () => ImageStats
  /** Free bytes where the data directory lies. */
  readonly dataFreeBytes?: () => number
}
