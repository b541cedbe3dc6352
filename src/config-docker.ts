/** The Docker daemon and its containers. Docker's own variables keep their meaning. */
import { join } from 'node:path'
import { type Reader, timerMsMax } from './config-reader.ts'
import { parseAuths } from './exec/docker/auth.ts'

export interface DockerConfig {
  /** Where the daemon listens; undefined when fnd is told to use none. */
  readonly host: DockerHost | undefined
  /** The operator named a daemon, so that its absence is a fault. */
  readonly isHostGiven: boolean
  /** FN_DOCKER_AUTH: the text of a Docker configuration file; `''` when not given. */
  readonly authText: string
  /** Docker's own configuration file, which need not exist. */
  readonly authFile: string
  /** FN_IOFS_PATH: where the rendezvous directories are; `''` = in the data directory. */
  readonly iofsDir: string
  /** FN_IOFS_DOCKER_PATH: the same directory by the name that the daemon's host has for it. */
  readonly iofsDockerDir: string
  /** Networks to spread containers over; none = Docker's default bridge. */
  readonly networks: readonly string[]
  /** Network namespaces made ahead, so that a start need not wait for one. 0 turns them off. */
  readonly networkPoolSize: number
  /** FN_FREEZE_IDLE_MSECS: an idle container is paused after this time; Infinity: never. */
  readonly pauseAfterMs: number
  readonly pullTimeoutMs: number
  /** FN_MAX_LOCKED_MEMORY, FN_MAX_PENDING_SIGNALS, FN_MAX_MESSAGE_QUEUE: per container. */
  readonly lockedMemoryBytesMax: number
  readonly pendingSignalsMax: number
  readonly messageQueueBytesMax: number
  /** FN_MAX_TMPFS_INODES; 0 = no limit. */
  readonly tmpInodesMax: number
  /** FN_MAX_FS_SIZE_MB; 0 = no limit. Needs a storage driver with quotas. */
  readonly fsMbMax: number
  /** FN_DISABLE_UNPRIVILEGED_CONTAINERS: the image's own user, with Docker's capabilities. */
  readonly isPrivileged: boolean
  /** FN_DISABLE_READONLY_ROOTFS. */
  readonly isRootWritable: boolean
  /** FN_IMAGE_ENABLE_VOLUME: take images that ask for volumes. */
  readonly areVolumesAllowed: boolean
  /** Images that fnd pulled are removed, least recently used first, above this; 0 = no limit. */
  readonly imageBytesMax: number
  /** FN_IMAGE_CLEAN_EXEMPT_TAGS: never removed. */
  readonly imagesKept: readonly string[]
  /** FN_DOCKER_LOAD_FILE: an archive of images to load at start; `''` = none. */
  readonly loadFile: string
  /** FN_CONTAINER_LABEL_TAG: one more label on every container, for the operator's own tools. */
  readonly labelTag: string
}

export type DockerHost =
  | { readonly kind: 'unix'; readonly path: string }
  | {
      readonly kind: 'tcp'
      readonly host: string
      readonly port: number
      /** The directory of ca.pem, cert.pem and key.pem; undefined for plain TCP. */
      readonly certDir: string | undefined
    }

const defaultSocket = '/var/run/docker.sock'
const plainPort = 2375
const tlsPort = 2376

/** `home` is the directory of the user whose Docker configuration file is read. */
export function readDocker(read: Reader, home: string): DockerConfig {
  const hostText = read.text(['FND_DOCKER_HOST', 'DOCKER_HOST'], '')
  const configDir = read.text(['DOCKER_CONFIG'], join(home, '.docker'))
  const pauseMs = read.count(['FND_FREEZE_IDLE_MSECS', 'FN_FREEZE_IDLE_MSECS'], -1, {
    min: Number.MIN_SAFE_INTEGER,
    max: timerMsMax,
  })
  const most = { min: 1 }
  return {
    host: hostText === 'none' ? undefined : dockerHost(read, hostText),
    isHostGiven: hostText !== '' && hostText !== 'none',
    authText: dockerAuth(read),
    authFile: join(configDir, 'config.json'),
    iofsDir: read.text(['FND_IOFS_PATH', 'FN_IOFS_PATH'], ''),
    iofsDockerDir: read.text(['FND_IOFS_DOCKER_PATH', 'FN_IOFS_DOCKER_PATH'], ''),
    networks: read
      .text(['FND_DOCKER_NETWORKS', 'FN_DOCKER_NETWORKS'], '')
      .split(/[\s,]+/)
      .filter(Boolean),
    networkPoolSize: read.count(['FND_NETWORK_POOL_SIZE'], 2, { max: 100 }),
    pauseAfterMs: pauseMs < 0 ? Number.POSITIVE_INFINITY : pauseMs,
    pullTimeoutMs: read.count(
      ['FND_HOT_PULL_TIMEOUT_MSECS', 'FN_HOT_PULL_TIMEOUT_MSECS'],
      600_000,
      {
        min: 1,
        max: timerMsMax,
      },
    ),
    lockedMemoryBytesMax: read.count(
      ['FND_MAX_LOCKED_MEMORY', 'FN_MAX_LOCKED_MEMORY'],
      65_536,
      most,
    ),
    pendingSignalsMax: read.count(
      ['FND_MAX_PENDING_SIGNALS', 'FN_MAX_PENDING_SIGNALS'],
      5000,
      most,
    ),
    messageQueueBytesMax: read.count(
      ['FND_MAX_MESSAGE_QUEUE', 'FN_MAX_MESSAGE_QUEUE'],
      819_200,
      most,
    ),
    tmpInodesMax: read.count(['FND_MAX_TMPFS_INODES', 'FN_MAX_TMPFS_INODES'], 0),
    fsMbMax: read.count(['FND_MAX_FS_SIZE_MB', 'FN_MAX_FS_SIZE_MB'], 0, { max: 2 ** 31 }),
    isPrivileged: read.flag([
      'FND_DISABLE_UNPRIVILEGED_CONTAINERS',
      'FN_DISABLE_UNPRIVILEGED_CONTAINERS',
    ]),
    isRootWritable: read.flag(['FND_DISABLE_READONLY_ROOTFS', 'FN_DISABLE_READONLY_ROOTFS']),
    areVolumesAllowed: read.flag(['FND_IMAGE_ENABLE_VOLUME', 'FN_IMAGE_ENABLE_VOLUME']),
    imageBytesMax: read.count(['FND_MAX_IMAGE_BYTES', 'FN_IMAGE_CLEAN_MAX_SIZE'], 0),
    imagesKept: read.list(['FND_IMAGE_CLEAN_EXEMPT_TAGS', 'FN_IMAGE_CLEAN_EXEMPT_TAGS']),
    loadFile: read.text(['FND_DOCKER_LOAD_FILE', 'FN_DOCKER_LOAD_FILE'], ''),
    labelTag: read.text(['FND_CONTAINER_LABEL_TAG', 'FN_CONTAINER_LABEL_TAG'], ''),
  }
}

function dockerAuth(read: Reader): string {
  const text = read.text(['FND_DOCKER_AUTH', 'FN_DOCKER_AUTH'], '')
  const parsed = text === '' ? undefined : parseAuths(text)
  if (parsed?.ok === false) read.faults.push(`FN_DOCKER_AUTH: ${parsed.fault}`)
  return text
}

function dockerHost(read: Reader, text: string): DockerHost | undefined {
  const certDir = read.text(['DOCKER_CERT_PATH'], '')
  const isTls = read.flag(['DOCKER_TLS_VERIFY']) || certDir !== ''
  if (text === '') return { kind: 'unix', path: defaultSocket }
  if (text.startsWith('unix://')) {
    const path = text.slice('unix://'.length)
    return { kind: 'unix', path: path === '' ? defaultSocket : path }
  }
  const full = text.includes('://') ? text : `tcp://${text}`
  const url = URL.canParse(full) ? new URL(full) : undefined
  if (url === undefined || !/^(tcp|https?):$/.test(url.protocol) || url.hostname === '') {
    read.faults.push(
      `DOCKER_HOST: "${text}" is not unix:///path, tcp://host:port or none` +
        (full.startsWith('ssh:') ? '; for ssh, forward the socket and name that' : ''),
    )
    return undefined
  }
  const isHttps = isTls || url.protocol === 'https:'
  if (isHttps && certDir === '') {
    read.faults.push('DOCKER_CERT_PATH: names the directory of ca.pem, cert.pem and key.pem')
  }
  const port = url.port === '' ? (isHttps ? tlsPort : plainPort) : Number(url.port)
  return { kind: 'tcp', host: url.hostname, port, certDir: isHttps ? certDir : undefined }
}
