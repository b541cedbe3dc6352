/** Settings: who wins, what is refused, and that a bound is always one. */
import { describe, expect, test } from 'bun:test'
import { type Config, type ConfigFlags, readConfig } from '../src/config.ts'

function configFrom(env: Record<string, string>, flags: ConfigFlags = {}): Config {
  const read = readConfig(flags, env)
  if (!read.ok) throw new Error(read.faults.join('; '))
  return read.config
}

describe('settings of the server', () => {
  test('flags win over FND_ variables, those over FN_ variables', () => {
    expect(configFrom({ FN_PORT: '1' }).port).toBe(1)
    expect(configFrom({ FN_PORT: '1', FND_LISTEN: ':2' }).port).toBe(2)
    expect(configFrom({ FN_PORT: '1', FND_LISTEN: ':2' }, { listen: '[::1]:3' })).toMatchObject({
      host: '::1',
      port: 3,
    })
    expect(configFrom({ FN_MAX_PIDS: '7' }).exec.pidsMax).toBe(7)
    expect(configFrom({ FN_MAX_PIDS: '7', FND_MAX_PIDS: '8' }).exec.pidsMax).toBe(8)
  })

  test('all faults are told at once', () => {
    const env = { FND_MAX_PIDS: 'many', FND_LISTEN: 'here', FND_LOG_LEVEL: 'loud' }
    const read = readConfig({}, env)
    expect(read.ok ? [] : read.faults).toHaveLength(3)
  })

  test.each([
    ['FND_MAX_REQUEST_HEADER_SIZE', '0'],
    ['FND_MAX_ADMIN_BODY_SIZE', '0'],
    ['FND_MAX_WAITING', '0'],
    ['FND_MAX_WAITING_PER_FN', '0'],
    ['FND_MAX_TMP_BYTES', '0'],
    ['FND_MAX_PIDS', '0'],
    ['FND_MAX_OPEN_FILES', '1'],
    ['FND_HOT_START_TIMEOUT_MSECS', '0'],
    ['FND_HOT_START_TIMEOUT_MSECS', '2147483648'],
    ['FND_SPARE_WORKERS', '65'],
    ['FND_DRAIN_TIMEOUT', '597h'],
    ['FND_WAIT_TIMEOUT', '-1s'],
    ['FND_PUBLIC_URL', 'fn.example.com'],
  ])('%s=%s is refused, since fnd could not work with it', (name, value) => {
    const read = readConfig({}, { [name]: value })
    expect(read.ok ? [] : read.faults).toEqual([expect.stringContaining(`${name}: "${value}"`)])
  })

  test("Fn's 0 for no limit on headers of answers is the default, not a limit of 0", () => {
    const { limits } = configFrom({ FN_MAX_HDR_RESPONSE_SIZE: '0', FN_MAX_RESPONSE_SIZE: '0' })
    expect(limits).toMatchObject({ responseHeaderBytesMax: 1024 * 1024, responseBytesMax: 0 })
  })

  test("Fn's names of log levels and formats work", () => {
    expect(configFrom({ FN_LOG_LEVEL: 'WARNING', FN_LOG_FORMAT: 'text' }).log).toEqual({
      level: 'warn',
      format: 'pretty',
    })
  })

  test("Docker's daemon, and the pause of idle containers", () => {
    const host = { kind: 'tcp', host: 'box', port: 2375, certDir: undefined }
    expect(configFrom({ DOCKER_HOST: 'tcp://box' }).docker).toMatchObject({ host })
    const both = { DOCKER_HOST: 'tcp://box', FND_DOCKER_HOST: 'unix:///d.sock' }
    expect(configFrom(both).docker).toMatchObject({ host: { kind: 'unix', path: '/d.sock' } })
    expect(configFrom({ DOCKER_HOST: 'none' }).docker.host).toBeUndefined()
    expect(readConfig({}, { DOCKER_HOST: 'ssh://box' }).ok).toBe(false)
    expect(configFrom({}).docker.pauseAfterMs).toBe(Number.POSITIVE_INFINITY)
    expect(configFrom({ FN_FREEZE_IDLE_MSECS: '50' }).docker.pauseAfterMs).toBe(50)
    expect(configFrom({ FND_FREEZE_IDLE_MSECS: '-1' }).docker.pauseAfterMs).toBe(Infinity)
  })

  test('--no-auth is for loopback', () => {
    expect(readConfig({ auth: false, listen: '0.0.0.0:1' }, {}).ok).toBe(false)
    expect(readConfig({ auth: false, listen: ':1' }, {}).ok).toBe(false)
    expect(readConfig({ auth: false }, {}).ok).toBe(false)
    for (const host of ['127.0.0.1', '[::1]', 'localhost']) {
      expect(configFrom({}, { auth: false, listen: `${host}:1` }).isAuthOff).toBe(true)
    }
  })
})
