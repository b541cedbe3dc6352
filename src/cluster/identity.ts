/** Who a peer is: what its certificate says, and what the cluster's authority vouches for. */
import { createHash, X509Certificate } from 'node:crypto'
import type { NodeId } from '../raft/types.ts'

export interface PeerName {
  readonly clusterId: string
  readonly nodeId: NodeId
}

/**
 * The DNS name in every node's certificate, for which clients ask. Nodes have no DNS names of
 * their own; who they are stands in their URI.
 */
export const tlsName = 'peer.fnd.internal'

/** What a cluster is called: part of URIs and of names of certificates. */
export const clusterIdPattern = /^[A-Za-z0-9_-]{1,64}$/

export function nodeUri({ clusterId, nodeId }: PeerName): string {
  return `fnd://${clusterId}/${nodeId}`
}

/** The one URI of a node's certificate. Undefined when it names no node. */
export function peerNameOf(certificate: X509Certificate): PeerName | undefined {
  const names = certificate.subjectAltName?.split(', ') ?? []
  const uris = names.filter(name => name.startsWith('URI:'))
  const match = /^URI:fnd:\/\/([A-Za-z0-9_-]{1,64})\/([1-9]\d{0,15})$/.exec(uris[0] ?? '')
  const [, clusterId, id] = match ?? []
  if (uris.length !== 1 || clusterId === undefined) return undefined
  const nodeId = Number(id)
  return Number.isSafeInteger(nodeId) ? { clusterId, nodeId } : undefined
}

/** SHA-256 of the authority's public key (SubjectPublicKeyInfo): what a join token pins. */
export function authorityHash(certificate: string): Buffer {
  const { publicKey } = new X509Certificate(certificate)
  return hashOf(publicKey.export({ type: 'spki', format: 'der' }))
}

/** Whether `certificate` was signed by this authority and holds at `nowMs`. */
export function isVouchedFor(
  certificate: X509Certificate,
  authority: X509Certificate,
  nowMs: number,
): boolean {
  return (
    authority.ca &&
    certificate.checkIssued(authority) &&
    certificate.verify(authority.publicKey) &&
    isInForce(certificate, nowMs) &&
    isInForce(authority, nowMs)
  )
}

export function isInForce(certificate: X509Certificate, nowMs: number): boolean {
  const from = Date.parse(certificate.validFrom)
  return from <= nowMs && nowMs < Date.parse(certificate.validTo)
}

/**
 * What a person compares when a node joins without a token: 80 bits over the joiner's public key
 * and the authority that it sees, so that somebody between the two cannot show both the same.
 */
export function joinFingerprint(publicKeyDer: Uint8Array, authority: Uint8Array): string {
  const hash = createHash('sha256').update('fnd join\0').update(authority).update(publicKeyDer)
  return hash.digest('hex').slice(0, 20).match(/.{4}/g)?.join('-') ?? ''
}

function hashOf(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}
