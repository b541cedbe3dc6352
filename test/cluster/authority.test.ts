import { describe, expect, test } from 'bun:test'
import { spawnSync } from 'node:child_process'
import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Authority, removeClusterFiles, writeClusterFiles } from '../../src/cluster/authority.ts'
import { isVouchedFor, peerNameOf } from '../../src/cluster/identity.ts'
import { judgeToken, mintToken, parseToken } from '../../src/cluster/token.ts'
import { StartError } from '../../src/errors.ts'
import { until } from './harness.ts'
import { firstAuthority, tempDir } from './join-harness.ts'

const dayMs = 24 * 60 * 60 * 1000

function openAt(dataDir: string, more: Partial<Parameters<typeof Authority.open>[0]> = {}) {
  const wallMs = () => Date.now()
  return Authority.open({
    ...{ dataDir, clusterId: 'test', nodeId: 1, wallMs, isFirst: true },
    ...more,
  })
}

describe('the authority', () => {
  test('and its certificates pass the strict checks of OpenSSL', async () => {
    const dataDir = tempDir()
    await openAt(dataDir)
    const dir = join(dataDir, 'cluster')
    for (const purpose of ['sslserver', 'sslclient']) {
      const verify = ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', `${dir}/ca.crt`]
      const { stdout, stderr } = spawnSync('openssl', [...verify, `${dir}/node.crt`], {
        encoding: 'utf8',
      })
      expect(stdout + stderr).toEndWith('node.crt: OK\n')
    }
  })

  test('lies in files that only their owner reads, and nothing else is left there', async () => {
    const dataDir = tempDir()
    await openAt(dataDir)
    const dir = join(dataDir, 'cluster')
    expect(readdirSync(dir).sort()).toEqual(['ca.crt', 'ca.key', 'node.crt', 'node.key'])
    for (const name of readdirSync(dir)) {
      expect(statSync(join(dir, name)).mode & 0o777).toBe(0o600)
    }
    expect(statSync(dir).mode & 0o777).toBe(0o700)
  })

  test('is the same after a restart, and so is the certificate', async () => {
    const dataDir = tempDir()
    const first = await openAt(dataDir)
    const second = await openAt(dataDir, { isFirst: false })
    expect(second.credentials).toEqual(first.credentials)
    expect(second.pair).toEqual(first.pair)
  })

  test('is made whole where a crash of the first start left parts of it', async () => {
    for (const part of ['ca.crt', 'ca.key', 'node.crt', 'node.key']) {
      const dataDir = tempDir()
      await openAt(dataDir)
      const dir = join(dataDir, 'cluster')
      for (const name of readdirSync(dir)) if (name !== part) rmSync(join(dir, name))
      const { pair, credentials } = await openAt(dataDir)
      const ofAuthority = new X509Certificate(pair.certificate)
      const certificate = new X509Certificate(credentials.certificate ?? '')
      expect(isVouchedFor(certificate, ofAuthority, Date.now())).toBe(true)
      expect((await openAt(dataDir)).credentials).toEqual(credentials)
    }
  })

  test('holds for 90 days from now, and for clocks that are a day behind', async () => {
    const authority = await firstAuthority()
    const certificate = new X509Certificate(authority.credentials.certificate ?? '')
    const ofAuthority = new X509Certificate(authority.pair.certificate)
    const isGoodAt = (days: number) =>
      isVouchedFor(certificate, ofAuthority, Date.now() + days * dayMs)
    expect([-1.01, -0.99, 0, 89.9, 90.1].map(isGoodAt)).toEqual([false, true, true, true, false])
    expect(peerNameOf(certificate)).toEqual({ clusterId: 'test', nodeId: 1 })
  })

  test('of another cluster is refused at the start, and a missing one too', async () => {
    const dataDir = tempDir()
    await openAt(dataDir)
    await expect(openAt(dataDir, { clusterId: 'other' })).rejects.toThrow(
      'of another cluster than other',
    )
    await removeClusterFiles(dataDir)
    const opening = openAt(dataDir, { isFirst: false })
    await expect(opening).rejects.toThrow(StartError)
    await expect(opening).rejects.toThrow('join again')
  })

  test('whose two files do not belong together is refused at the start', async () => {
    const dataDir = tempDir()
    await openAt(dataDir)
    const other = await firstAuthority()
    await writeClusterFiles(dataDir, { authorityKey: other.pair.key })
    await expect(openAt(dataDir)).rejects.toThrow('do not belong together')
  })

  test('signs no key that is not on P-256', async () => {
    const authority = await firstAuthority()
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' })
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string
    expect(() => authority.issue(2, pem)).toThrow('P-256')
  })
})

describe('the certificate of a node is made anew', () => {
  const fresh = async (change: (dir: string, dataDir: string) => void | Promise<void>) => {
    const dataDir = tempDir()
    const before = await openAt(dataDir)
    await change(join(dataDir, 'cluster'), dataDir)
    const after = await openAt(dataDir, { isFirst: false })
    expect(after.pair).toEqual(before.pair)
    expect(after.credentials.certificate).not.toBe(before.credentials.certificate)
    const certificate = new X509Certificate(after.credentials.certificate ?? '')
    const key = createPublicKey(after.credentials.key ?? '')
    expect(certificate.publicKey.equals(key)).toBe(true)
    expect(isVouchedFor(certificate, new X509Certificate(after.pair.certificate), Date.now())).toBe(
      true,
    )
  }

  test('when a crash left only one of its files', () => fresh(dir => rmSync(`${dir}/node.key`)))

  test('when a crash left files of two renewals', async () => {
    const other = await firstAuthority()
    await fresh((_dir, dataDir) => writeClusterFiles(dataDir, { key: other.credentials.key ?? '' }))
  })

  test('when it is of another node', () =>
    fresh(async (_dir, dataDir) => {
      await openAt(dataDir, { nodeId: 7 })
    }))

  test('when it has expired', () =>
    fresh(async (dir, dataDir) => {
      rmSync(`${dir}/node.crt`)
      await openAt(dataDir, { lifeMs: -1000 }).then(authority => authority.stop())
    }))

  test('at two thirds of its life, on the disk before it is used', async () => {
    const dataDir = tempDir()
    let nowMs = Date.now()
    const authority = await openAt(dataDir, { lifeMs: 3000, wallMs: () => nowMs })
    const before = authority.credentials
    const renewed: unknown[] = []
    const errors: unknown[] = []
    authority.keepFresh(
      async credentials => {
        const text = readFileSync(join(dataDir, 'cluster', 'node.crt'), 'utf8')
        expect(text).toBe(credentials.certificate ?? '')
        renewed.push(credentials)
      },
      error => errors.push(error),
    )
    await Bun.sleep(250)
    expect(renewed).toEqual([])
    nowMs += 2001
    await until(() => renewed.length === 1)
    authority.stop()
    expect(authority.credentials).not.toEqual(before)
    expect(errors).toEqual([])
  })

  test('a renewal that fails is told, and tried again', async () => {
    const dataDir = tempDir()
    let nowMs = Date.now()
    const authority = await openAt(dataDir, { lifeMs: 1500, wallMs: () => nowMs })
    const dir = join(dataDir, 'cluster')
    rmSync(dir, { recursive: true })
    writeFileSync(dir, 'in the way')
    nowMs += 1400
    const errors: unknown[] = []
    let renewals = 0
    authority.keepFresh(
      async () => {
        renewals++
      },
      error => errors.push(error),
    )
    await until(() => errors.length > 1)
    rmSync(dir)
    await until(() => renewals > 0)
    authority.stop()
  })
})

describe('a join token', () => {
  test('is good until it expires, for its own cluster', async () => {
    const authority = await firstAuthority()
    const other = await firstAuthority()
    const token = mintToken(authority.pair, 1_000_500)
    expect(parseToken(token)?.expiresMs).toBe(1_001_000)
    expect(judgeToken(authority.pair, token, 1_000_999)).toBeUndefined()
    expect(judgeToken(authority.pair, ` ${token}\n`, 0)).toBeUndefined()
    expect(judgeToken(authority.pair, token, 1_001_000)).toContain('expired at 1970-01-01T00:16:41')
    expect(judgeToken(other.pair, token, 0)).toContain('of another cluster')
  })

  test('with any character changed is none', async () => {
    const authority = await firstAuthority()
    const token = mintToken(authority.pair, Date.now() + dayMs)
    for (let at = 0; at < token.length - 1; at++) {
      const character = token[at] === 'x' ? 'y' : 'x'
      const changed = token.slice(0, at) + character + token.slice(at + 1)
      expect(judgeToken(authority.pair, changed, Date.now())).toBeString()
    }
    expect(judgeToken(authority.pair, '', Date.now())).toContain('not a join token')
    expect(judgeToken(authority.pair, token.slice(0, -1), Date.now())).toBeString()
  })

  test('made with another key of the same name is refused', async () => {
    const [authority, other] = [await firstAuthority(), await firstAuthority()]
    const forged = { certificate: authority.pair.certificate, key: other.pair.key }
    const token = mintToken(forged, Date.now() + dayMs)
    expect(judgeToken(authority.pair, token, Date.now())).toContain('was changed')
  })
})
