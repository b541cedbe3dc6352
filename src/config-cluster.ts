/** How this node finds its cluster, how the others find it, and what the cluster wants to be. */
import { hostname } from 'node:os'
import type { Reader } from './config-reader.ts'

export interface Place {
  /** A name or an address, IPv6 without brackets. */
  readonly host: string
  readonly port: number
}

export interface ClusterConfig {
  /** Peer addresses of members to ask for admission; empty: a new data directory, a new cluster. */
  readonly join: readonly Place[]
  /** What `fnd token` printed; `''` for none. */
  readonly joinToken: string
  /** Where peers are listened for. Port 0: any free one. */
  readonly peerListen: Place
  /** What others call this node by; undefined: found out when joining. Port 0: the bound one. */
  readonly advertise: Place | undefined
  /** For people. */
  readonly name: string
  /** Voters at most: 1, 3, 5 or 7. */
  readonly votersMax: number
  /** A voter that was silent for so long is replaced, if a learner can take its place. */
  readonly voterDeadAfterMs: number
  /** The shortest time without a leader's word after which an election begins. */
  readonly electionTimeoutMs: number
}

export interface ClusterFlags {
  readonly join?: string
  readonly joinToken?: string
  readonly peerListen?: string
  readonly advertise?: string
  readonly name?: string
}

export const peerPortDefault = 8081
/** The join token's usual and its longest life. */
export const tokenLifeMsDefault = 24 * 3_600_000
export const tokenLifeMsMax = 30 * 24 * 3_600_000

const votersMaxDefault = 5
const electionTimeoutMsDefault = 400
const voterDeadAfterMsDefault = 60_000

/** `host`, `host:port`, `[v6]` or `[v6]:port`. */
export function parsePlace(text: string, portDefault: number): Place | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  if (match === null || host === undefined) return undefined
  const port = match[3] === undefined ? portDefault : Number(match[3])
  return port > 65_535 ? undefined : { host, port }
}

export function placeText({ host, port }: Place): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** `parseListen` is that of config.ts. `http` is where the HTTP API listens, if that is known. */
export function readCluster(
  read: Reader,
  flags: ClusterFlags,
  http: Place | undefined,
  parseListen: (text: string) => Place | undefined,
): ClusterConfig {
  const electionTimeoutMs = read.durationMs(['FND_ELECTION_TIMEOUT'], electionTimeoutMsDefault)
  if (electionTimeoutMs < 100 || electionTimeoutMs > 60_000) {
    read.faults.push('FND_ELECTION_TIMEOUT: give 100ms to 60s; the same on all nodes')
  }
  const voterDeadAfterMs = read.durationMs(['FND_VOTER_DEAD_AFTER'], voterDeadAfterMsDefault)
  if (voterDeadAfterMs < 2 * electionTimeoutMs) {
    read.faults.push('FND_VOTER_DEAD_AFTER: give at least twice FND_ELECTION_TIMEOUT')
  }
  const votersMax = read.count(['FND_VOTERS'], votersMaxDefault, { min: 1, max: 7 })
  if (votersMax % 2 === 0) read.faults.push(`FND_VOTERS: ${votersMax} is not 1, 3, 5 or 7`)
  return {
    join: readJoin(read, flags),
    joinToken: readJoinToken(read, flags),
    peerListen: readPeerListen(read, flags, http, parseListen),
    advertise: readAdvertise(read, flags),
    name: readName(read, flags),
    votersMax,
    voterDeadAfterMs,
    electionTimeoutMs,
  }
}

function readJoin(read: Reader, flags: ClusterFlags): Place[] {
  const texts = (flags.join ?? read.text(['FND_JOIN'], ''))
    .split(',')
    .map(part => part.trim())
    .filter(part => part !== '')
  return texts.flatMap(text => {
    const place = parsePlace(text, peerPortDefault)
    if (place !== undefined && place.port !== 0) return [place]
    read.faults.push(`--join: "${text}" is not host:port of a member, for example 10.0.0.1:8081`)
    return []
  })
}

/** Its form alone; whether it is right, a member says. */
function readJoinToken(read: Reader, flags: ClusterFlags): string {
  const token = (flags.joinToken ?? read.text(['FND_JOIN_TOKEN'], '')).trim()
  if (token !== '' && !/^fnd-[\w-]+\.[0-9a-z]+\.[\w-]+$/.test(token)) {
    read.faults.push('--join-token: that is not what `fnd token` prints')
  }
  return token
}

function readPeerListen(
  read: Reader,
  flags: ClusterFlags,
  http: Place | undefined,
  parseListen: (text: string) => Place | undefined,
): Place {
  const text = flags.peerListen ?? read.text(['FND_PEER_LISTEN'], '')
  const given = text === '' ? undefined : parseListen(text)
  if (text !== '' && given === undefined) {
    read.faults.push(`--peer-listen: "${text}" is not host:port, for example 0.0.0.0:8081`)
  }
  if (given !== undefined) return given
  if (http === undefined) return { host: '0.0.0.0', port: peerPortDefault }
  if (text === '' && http.port === 65_535) {
    read.faults.push('--peer-listen: give it, as there is no port after 65535 to take')
  }
  return { host: http.host, port: http.port === 0 ? 0 : Math.min(http.port + 1, 65_535) }
}

function readAdvertise(read: Reader, flags: ClusterFlags): Place | undefined {
  const text = flags.advertise ?? read.text(['FND_ADVERTISE'], '')
  if (text === '') return undefined
  const place = parsePlace(text, 0)
  const isWildcard = place?.host === '0.0.0.0' || place?.host === '::'
  if (place === undefined || isWildcard) {
    read.faults.push(
      `--advertise: "${text}" is not an address that other nodes reach this one at, ` +
        'for example 10.0.0.2 or node2.example:8081',
    )
  }
  return place
}

function readName(read: Reader, flags: ClusterFlags): string {
  const given = flags.name ?? read.text(['FND_NAME'], '')
  if (given !== '' && !/^[A-Za-z0-9._-]{1,63}$/.test(given)) {
    read.faults.push(`--name: "${given}" is not 1 to 63 letters, digits, ".", "_" and "-"`)
  }
  if (given !== '') return given
  return (
    hostname()
      .replace(/[^A-Za-z0-9._-]/g, '-')
      .slice(0, 63) || 'node'
  )
}
