/** The contract of drivers, unchanged, on containers: over a unix socket, and over TCP with TLS. */
import { afterAll, beforeAll } from 'bun:test'
import { testDriver } from '../contract/driver.ts'
import { Daemon } from './daemon.ts'
import { openDockerDriver, removeDataDirs } from './docker-driver.ts'
import { makeImages } from './images.ts'

let daemon: Daemon

beforeAll(async () => {
  daemon = await Daemon.start({ bridge: true, tls: true })
  await makeImages(daemon.docker, ['fn-contract'])
})
afterAll(async () => {
  await daemon[Symbol.asyncDispose]()
  removeDataDirs()
})

const ways = {
  'unix socket, networks made ahead': (): Record<string, string> => ({
    DOCKER_HOST: daemon.host,
    FND_NETWORK_POOL_SIZE: '2',
  }),
  'TCP with TLS, networks made with the container': (): Record<string, string> => ({
    DOCKER_HOST: daemon.tcpHost ?? '',
    DOCKER_TLS_VERIFY: '1',
    DOCKER_CERT_PATH: daemon.certDir,
    FND_NETWORK_POOL_SIZE: '0',
  }),
}

for (const [way, env] of Object.entries(ways)) {
  testDriver({
    name: `docker, ${way}`,
    image: 'fn-contract:1',
    missingImage: 'fn-missing:1',
    memoryMb: 128,
    open: async ({ output, startTimeoutMs }) => {
      const timeout = { FND_HOT_START_TIMEOUT_MSECS: String(startTimeoutMs) }
      const { driver } = await openDockerDriver({ env: { ...env(), ...timeout }, output })
      return driver
    },
  })
}
