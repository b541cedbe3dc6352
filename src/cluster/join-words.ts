/**
 * What a joining node and a member say to each other after their hellos, as JSON. Pure. In order:
 * the member shows the authority; the node, once it has verified that, says who it is; the member
 * lets it wait, sends it to the leader, or takes it in.
 */
import type { NodeId } from '../raft/types.ts'
import type { AuthorityPair } from './certificates.ts'
import { parseEndpoint } from './hello.ts'
import { clusterIdPattern } from './identity.ts'

/** Of one frame in either direction. */
export const joinFrameBytesMax = 1024 * 1024

export interface JoinRequest {
  /** `''` without one. */
  readonly token: string
  /** Made with the data directory, so that a repeated request is recognized. */
  readonly uuid: string
  readonly name: string
  readonly apiUrl: string
  /** PEM. */
  readonly publicKey: string
  readonly version: string
  readonly commandVersion: number
  /** Its peer port, `host:port`. */
  readonly address: string
}

/** While it lasts. */
export type JoinProgress =
  | { readonly state: 'waiting'; readonly fingerprint: string }
  /** To the leader. `token` stands for what was proved already, `''` if nothing was. */
  | { readonly state: 'redirect'; readonly address: string; readonly token: string }
  | { readonly state: 'no-leader'; readonly addresses: readonly string[] }

/** What makes a member. Holds secrets: it goes to files of mode 0600 and nowhere else. */
export interface JoinGrant {
  readonly clusterId: string
  readonly nodeId: NodeId
  /** PEM, for the public key of the request. */
  readonly certificate: string
  readonly authority: AuthorityPair
  readonly adminToken: string
  /** Bytes of `secrets.key`, as the file holds them, in base64. `''` when there is none yet. */
  readonly secretsKey: string
  /** The members as the cluster knows them, this one included. */
  readonly nodes: readonly unknown[]
}

type Fields = Readonly<Record<string, unknown>>

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {}
}

function isText(value: unknown, lengthMax: number): value is string {
  return typeof value === 'string' && value.length <= lengthMax
}

const printable = /^[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]*$/u

/** A sentence that names the field at fault, or undefined. People will read these texts. */
export function faultOfRequest(value: unknown): string | undefined {
  const fields = fieldsOf(value)
  const { token, uuid, name, apiUrl, publicKey, version, commandVersion, address } = fields
  if (!isText(token, 200)) return 'token is not a text of at most 200 characters'
  if (!isText(uuid, 64) || !/^[0-9A-Za-z-]+$/.test(uuid)) return 'uuid is none'
  if (!isText(name, 255) || name === '' || !printable.test(name)) {
    return 'name is not 1 to 255 printable characters'
  }
  if (!isText(apiUrl, 300) || !/^https?:\/\//.test(apiUrl) || !URL.canParse(apiUrl)) {
    return 'apiUrl is not a URL such as http://10.0.0.7:8080'
  }
  if (!isText(publicKey, 1000)) return 'publicKey is none'
  if (!isText(version, 64) || !printable.test(version)) return 'version is none'
  if (!Number.isSafeInteger(commandVersion) || (commandVersion as number) < 1) {
    return 'commandVersion is none'
  }
  if (!isText(address, 300) || parseEndpoint(address, 0) === undefined) {
    return 'address is not host:port'
  }
  return undefined
}

/** Undefined when it is none. */
export function parseProgress(value: unknown): JoinProgress | undefined {
  const fields = fieldsOf(value)
  const { state, fingerprint, address, token, addresses } = fields
  if (state === 'waiting' && isText(fingerprint, 100)) return { state, fingerprint }
  if (state === 'redirect' && isText(address, 300) && isText(token, 200)) {
    return { state, address, token }
  }
  const isList = Array.isArray(addresses) && addresses.every(one => isText(one, 300))
  if (state === 'no-leader' && isList) return { state, addresses }
  return undefined
}

/** Undefined when it is none. */
export function parseGrant(value: unknown): JoinGrant | undefined {
  const grant = fieldsOf(value)
  const authority = fieldsOf(grant.authority)
  const texts = [grant.certificate, grant.adminToken, grant.secretsKey]
  const isGrant =
    isText(grant.clusterId, 64) &&
    clusterIdPattern.test(grant.clusterId) &&
    Number.isSafeInteger(grant.nodeId) &&
    (grant.nodeId as number) > 0 &&
    [...texts, authority.certificate, authority.key].every(text => isText(text, 10_000)) &&
    Array.isArray(grant.nodes)
  return isGrant ? (value as JoinGrant) : undefined
}
