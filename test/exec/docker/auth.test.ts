import { describe, expect, test } from 'bun:test'
import { readConfig } from '../../../src/config.ts'
import {
  authConfig,
  type Credential,
  helperCredential,
  parseAuths,
} from '../../../src/exec/docker/auth.ts'

const encoded = (text: string) => Buffer.from(text).toString('base64')

function credentialsOf(value: unknown): Record<string, Credential> {
  const parsed = parseAuths(JSON.stringify(value))
  if (!parsed.ok) throw new Error(parsed.fault)
  return Object.fromEntries(parsed.auths.credentials)
}

describe('a Docker configuration', () => {
  const ada = { username: 'ada', password: 'pass:word', identityToken: '' }

  test('holds the pair in base64, by the address of the registry', () => {
    const auth = encoded('ada:pass:word')
    expect(
      credentialsOf({
        auths: {
          'https://index.docker.io/v1/': { auth },
          'https://r.example/v2/': { auth },
          'localhost:5000': { username: 'ada', password: 'pass:word' },
          'in.helper': {},
        },
      }),
    ).toEqual({ 'docker.io': ada, 'r.example': ada, 'localhost:5000': ada })
  })

  test('may be the map of very old Docker, and hold tokens', () => {
    expect(credentialsOf({ 'r.example': { auth: encoded('ada:pass:word'), email: 'x' } })).toEqual({
      'r.example': ada,
    })
    expect(credentialsOf({ auths: { 'r.example': { identitytoken: 'tok' } } })).toEqual({
      'r.example': { username: '', password: '', identityToken: 'tok' },
    })
  })

  test('names its helpers', () => {
    const text = { credsStore: 'pass', credHelpers: { 'https://index.docker.io/v1/': 'ecr' } }
    const parsed = parseAuths(JSON.stringify(text))
    expect(parsed.ok && parsed.auths.store).toBe('pass')
    expect(parsed.ok && [...parsed.auths.helpers]).toEqual([['docker.io', 'ecr']])
  })

  test.each([
    'secret-text',
    '"secret-text"',
    '[]',
    'null',
    '{"auths": 1}',
    '{"auths": {"r.example": "secret-text"}}',
    '{"auths": {"r.example": {"auth": "secret-text"}}}',
    '{"auths": {"r.example": {"password": "secret-text"}}}',
  ])('%s is refused, without telling what it holds', text => {
    const parsed = parseAuths(text)
    expect(parsed.ok).toBe(false)
    expect(JSON.stringify(parsed)).not.toContain('secret-text')
  })

  test('in FN_DOCKER_AUTH is checked when the settings are read', () => {
    const read = readConfig({}, { FN_DOCKER_AUTH: 'secret-text' })
    expect(read.ok ? [] : read.faults).toEqual([expect.stringContaining('FN_DOCKER_AUTH')])
    expect(JSON.stringify(read)).not.toContain('secret-text')
    expect(readConfig({}, { FN_DOCKER_AUTH: '{"auths": {}}' }).ok).toBe(true)
  })
})

test('the daemon is given a pair, or a token and no pair', () => {
  const credential = { username: 'ada', password: 'pw', identityToken: '' }
  expect(authConfig('docker.io', credential)).toEqual({
    username: 'ada',
    password: 'pw',
    serveraddress: 'https://index.docker.io/v1/',
  })
  expect(authConfig('r.example', { ...credential, identityToken: 'tok' })).toEqual({
    identitytoken: 'tok',
    serveraddress: 'r.example',
  })
})

test('a helper prints a pair, or a token under a name of its own', () => {
  const answer = (Username: string) => JSON.stringify({ ServerURL: 'x', Username, Secret: 's' })
  expect(helperCredential(answer('ada'))).toMatchObject({ username: 'ada', password: 's' })
  expect(helperCredential(answer('<token>'))).toMatchObject({ username: '', identityToken: 's' })
  for (const output of ['', 'no', '{}', 'null']) expect(helperCredential(output)).toBeUndefined()
})
