/**
 * Makes the certificates of a cluster: one authority, and one certificate for each node. They are
 * written by a library that is loaded when the first is made, since most starts make none; reading
 * and verifying is left to the TLS library of the runtime.
 */
import { createHash, createPublicKey, generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import type { Extension } from '@peculiar/asn1-x509'
import { nodeUri, type PeerName, tlsName } from './identity.ts'

const dayMs = 24 * 60 * 60 * 1000

/** Certificates begin to hold this long before they are made: clocks of members may differ. */
export const backdatedMs = dayMs

/** Of a node's certificate, unless told otherwise. */
export const nodeLifeMsDefault = 90 * dayMs

/** The authority outlives the machines; nothing renews it. */
const authorityLifeMs = 100 * 365 * dayMs

/** An authority: PEM texts. */
export interface AuthorityPair {
  readonly certificate: string
  readonly key: string
}

export interface KeyPair {
  /** PEM, SubjectPublicKeyInfo. */
  readonly publicKey: string
  /** PEM, PKCS #8. */
  readonly privateKey: string
}

/** ECDSA on P-256: small, quick to make, and understood by everything that speaks TLS. */
export function makeKeyPair(): KeyPair {
  return generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
}

export async function makeAuthority(clusterId: string, nowMs: number): Promise<AuthorityPair> {
  const { publicKey, privateKey } = makeKeyPair()
  const certificate = await issue({
    subject: authorityName(clusterId),
    issuer: authorityName(clusterId),
    publicKey,
    signingKey: privateKey,
    isAuthority: true,
    fromMs: nowMs - backdatedMs,
    untilMs: nowMs + authorityLifeMs,
  })
  return { certificate, key: privateKey }
}

export interface NodeRequest extends PeerName {
  /** PEM of the node's own public key. */
  readonly publicKey: string
  readonly nowMs: number
  readonly lifeMs: number
}

/** PEM. Throws when the public key is none, or not on P-256. */
export function issueNode(authority: AuthorityPair, request: NodeRequest): Promise<string> {
  const { clusterId, nodeId, nowMs, lifeMs } = request
  const key = createPublicKey(request.publicKey)
  if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') {
    throw new TypeError('the public key is not an ECDSA key on P-256')
  }
  return issue({
    subject: `fnd node ${nodeId}`,
    issuer: authorityName(clusterId),
    publicKey: request.publicKey,
    signingKey: authority.key,
    isAuthority: false,
    uri: nodeUri({ clusterId, nodeId }),
    fromMs: nowMs - backdatedMs,
    untilMs: nowMs + lifeMs,
  })
}

/** Names the cluster, so that two authorities are never taken for each other. */
function authorityName(clusterId: string): string {
  return `fnd cluster ${clusterId}`
}

interface Wanted {
  readonly subject: string
  readonly issuer: string
  readonly publicKey: string
  readonly signingKey: string
  readonly isAuthority: boolean
  readonly uri?: string
  readonly fromMs: number
  readonly untilMs: number
}

type Asn1 = typeof import('@peculiar/asn1-x509')
type Schema = typeof import('@peculiar/asn1-schema')

/** ecdsa-with-SHA256 (RFC 5758), and commonName (X.520). */
const signatureOid = '1.2.840.10045.4.3.2'
const commonNameOid = '2.5.4.3'

async function issue(wanted: Wanted): Promise<string> {
  const [x509, schema] = await Promise.all([
    import('@peculiar/asn1-x509'),
    import('@peculiar/asn1-schema'),
  ])
  const { AsnConvert } = schema
  const publicKey = AsnConvert.parse(derOf(wanted.publicKey), x509.SubjectPublicKeyInfo)
  const signature = new x509.AlgorithmIdentifier({ algorithm: signatureOid })
  const certificate = new x509.TBSCertificate({
    version: x509.Version.v3,
    serialNumber: serialNumber(),
    signature,
    issuer: nameOf(x509, wanted.issuer),
    subject: nameOf(x509, wanted.subject),
    validity: new x509.Validity({
      notBefore: new Date(wanted.fromMs),
      notAfter: new Date(wanted.untilMs),
    }),
    subjectPublicKeyInfo: publicKey,
    extensions: new x509.Extensions(extensionsOf(x509, schema, wanted)),
  })
  const body = AsnConvert.serialize(certificate)
  const signed = new x509.Certificate({
    tbsCertificate: certificate,
    signatureAlgorithm: signature,
    signatureValue: bufferOf(sign('sha256', new Uint8Array(body), wanted.signingKey)),
  })
  return pemOf(new Uint8Array(AsnConvert.serialize(signed)))
}

/** Positive, minimal and not to be guessed (RFC 5280 §4.1.2.2). */
function serialNumber(): ArrayBuffer {
  const bytes = randomBytes(16)
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40
  return bufferOf(bytes)
}

function nameOf(x509: Asn1, text: string) {
  const value = new x509.AttributeValue({ utf8String: text })
  const attribute = new x509.AttributeTypeAndValue({ type: commonNameOid, value })
  return new x509.Name([new x509.RelativeDistinguishedName([attribute])])
}

function extensionsOf(
  x509: Asn1,
  { AsnConvert, OctetString }: Schema,
  wanted: Wanted,
): Extension[] {
  const extension = (extnID: string, value: unknown, critical = false) =>
    new x509.Extension({
      extnID,
      critical,
      extnValue: new OctetString(AsnConvert.serialize(value)),
    })
  const { KeyUsageFlags } = x509
  if (wanted.isAuthority) {
    const keyId = new x509.SubjectKeyIdentifier(keyIdOf(wanted.publicKey))
    const use = new x509.KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign)
    const constraints = new x509.BasicConstraints({ cA: true, pathLenConstraint: 0 })
    return [
      extension(x509.id_ce_basicConstraints, constraints, true),
      extension(x509.id_ce_keyUsage, use, true),
      extension(x509.id_ce_subjectKeyIdentifier, keyId),
    ]
  }
  const names = new x509.SubjectAlternativeName([
    new x509.GeneralName({ dNSName: tlsName }),
    new x509.GeneralName({ uniformResourceIdentifier: wanted.uri ?? '' }),
  ])
  const keyIdentifier = new x509.KeyIdentifier(keyIdOf(wanted.signingKey))
  const uses = new x509.ExtendedKeyUsage([x509.id_kp_serverAuth, x509.id_kp_clientAuth])
  return [
    extension(x509.id_ce_basicConstraints, new x509.BasicConstraints({ cA: false }), true),
    extension(x509.id_ce_keyUsage, new x509.KeyUsage(KeyUsageFlags.digitalSignature), true),
    extension(x509.id_ce_extKeyUsage, uses),
    extension(x509.id_ce_subjectAltName, names),
    extension(
      x509.id_ce_authorityKeyIdentifier,
      new x509.AuthorityKeyIdentifier({ keyIdentifier }),
    ),
  ]
}

/** Of the public key, whether that or its private key is given. */
function derOf(pem: string): Buffer {
  return createPublicKey(pem).export({ type: 'spki', format: 'der' })
}

/** Bytes of a point on P-256, uncompressed. They stand at the end of its DER. */
const pointBytes = 65

/** RFC 7093 §2: the leftmost 160 bits of the SHA-256 of the key. */
function keyIdOf(pem: string): ArrayBuffer {
  const hash = createHash('sha256').update(derOf(pem).subarray(-pointBytes)).digest()
  return bufferOf(hash.subarray(0, 20))
}

/** The library takes buffers for all of their bytes, which those of Node are not. */
function bufferOf(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer
}

function pemOf(der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}
