/** Certificates of a throwaway authority, made by openssl. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'

function openssl(dir: string, ...options: readonly string[]): void {
  const { status, stderr } = spawnSync('openssl', options, { cwd: dir, encoding: 'utf8' })
  if (status !== 0) throw new Error(`openssl ${options.join(' ')}: ${stderr}`)
}

function key(dir: string, name: string): void {
  openssl(dir, 'ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', name)
}

/**
 * Fills `dir` with the names that DOCKER_CERT_PATH expects: an authority, a certificate of a server
 * that is known by `names` (host names and addresses), and one of a client.
 */
export function makeCerts(dir: string, names: readonly string[]): void {
  mkdirSync(dir, { recursive: true })
  key(dir, 'ca-key.pem')
  const subject = '/CN=fnd test authority'
  openssl(
    dir,
    ...['req', '-x509', '-new', '-key', 'ca-key.pem', '-days', '2', '-subj', subject],
    ...['-out', 'ca.pem'],
  )
  const alternatives = names.map(name => `${isIP(name) === 0 ? 'DNS' : 'IP'}:${name}`).join(',')
  const parties = [
    { prefix: 'server-', use: `serverAuth\nsubjectAltName=${alternatives}` },
    { prefix: '', use: 'clientAuth' },
  ]
  for (const { prefix, use } of parties) {
    key(dir, `${prefix}key.pem`)
    writeFileSync(join(dir, 'extensions'), `extendedKeyUsage=${use}\n`)
    openssl(
      dir,
      ...['req', '-new', '-key', `${prefix}key.pem`, '-subj', '/CN=fnd test', '-out', 'request'],
    )
    openssl(
      dir,
      ...['x509', '-req', '-in', 'request', '-CA', 'ca.pem', '-CAkey', 'ca-key.pem'],
      ...['-CAcreateserial', '-days', '2', '-extfile', 'extensions', '-out', `${prefix}cert.pem`],
    )
  }
}
