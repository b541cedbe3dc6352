/**
 * What Docker is asked for: the options of a function's container (fn-api.md §2.4). Pure. Left out
 * on purpose are KernelMemory and swappiness, which cgroup v2 and newer runtimes refuse.
 */
import type { ContainerCreateOptions, HostConfig } from 'dockerode'
import type { DockerConfig } from '../../config-docker.ts'
import type { FnSpec } from '../driver.ts'

export const nodeLabel = 'fnd.io/node'
export const instanceLabel = 'fnd.io/instance'
/** Where a function finds the directory for its socket. */
export const iofsTarget = '/tmp/iofs'

export interface ContainerLimits {
  readonly pidsMax: number
  readonly openFilesMax: number
  readonly tmpBytesMax: number
}

export interface ContainerPlan {
  readonly spec: FnSpec
  /** The container's own, which is the instance's unless that has more than one. */
  readonly containerId: string
  /** Names the fnd whose container it is. */
  readonly nodeId: string
  /** An image's id or reference. */
  readonly image: string
  readonly env: Readonly<Record<string, string>>
  /** The rendezvous directory as the daemon sees it; undefined for the older formats. */
  readonly iofsSource: string | undefined
  /** Docker's NetworkMode. */
  readonly network: string
  readonly config: DockerConfig
  readonly limits: ContainerLimits
  /**
   * RLIMIT_NPROC where it must be named: podman takes the kernel's maximum otherwise, which not
   * every root may set. It counts the processes of a user on the host, so it limits no container.
   */
  readonly userProcessesMax: number | undefined
}

const mib = 1024 * 1024

export function containerName(containerId: string): string {
  return `fnd-${containerId.toLowerCase()}`
}

/** Labels of every container of this node; its own and the operator's. */
export function labelsOf(
  nodeId: string,
  containerId: string,
  labelTag: string,
): Record<string, string> {
  const fnLabels = { 'fn-agent-classifier': labelTag, 'fn-agent-instance': nodeId }
  return {
    [nodeLabel]: nodeId,
    [instanceLabel]: containerId,
    ...(labelTag === '' ? {} : fnLabels),
  }
}

/** Whether it runs as uid 1000 without capabilities, whatever user its image names. */
export function isConfined(spec: FnSpec, config: DockerConfig): boolean {
  // IronFunctions ran its containers as the image's user, on a root that they could write to.
  return !config.isPrivileged && spec.dialect !== 'iron'
}

export function createOptions(plan: ContainerPlan): ContainerCreateOptions {
  const { spec, containerId, config } = plan
  const isStdio = spec.format !== 'http-stream'
  const joinsNetwork = plan.network.startsWith('container:')
  return {
    name: containerName(containerId),
    // Docker gives a container the host name of the one whose network it joins.
    ...(joinsNetwork ? {} : { Hostname: containerName(containerId) }),
    Image: plan.image,
    Env: Object.entries(plan.env).map(([name, value]) => `${name}=${value}`),
    ...(isConfined(spec, config) ? { User: '1000:1000' } : {}),
    OpenStdin: isStdio,
    StdinOnce: isStdio,
    AttachStdin: isStdio,
    AttachStdout: true,
    AttachStderr: true,
    Tty: false,
    Labels: {
      ...labelsOf(plan.nodeId, containerId, config.labelTag),
      'fnd.io/app-id': spec.appId,
      'fnd.io/fn-id': spec.fnId,
    },
    HostConfig: hostConfig(plan),
  }
}

function hostConfig(plan: ContainerPlan): HostConfig {
  const { spec, config, limits } = plan
  const inodes = config.tmpInodesMax === 0 ? '' : `,nr_inodes=${config.tmpInodesMax}`
  const same = (Name: string, value: number) => ({ Name, Soft: value, Hard: value })
  return {
    Init: true,
    ReadonlyRootfs: !config.isRootWritable && spec.dialect !== 'iron',
    Tmpfs: { '/tmp': `size=${limits.tmpBytesMax},mode=1777${inodes}` },
    ...(plan.iofsSource === undefined
      ? {}
      : { Mounts: [{ Type: 'bind', Source: plan.iofsSource, Target: iofsTarget }] }),
    ...(isConfined(spec, config) ? { CapDrop: ['ALL'], SecurityOpt: ['no-new-privileges'] } : {}),
    Memory: spec.memoryMb * mib,
    MemorySwap: spec.memoryMb * mib,
    PidsLimit: limits.pidsMax,
    Ulimits: [
      same('nofile', limits.openFilesMax),
      same('memlock', config.lockedMemoryBytesMax),
      same('sigpending', config.pendingSignalsMax),
      same('msgqueue', config.messageQueueBytesMax),
      ...(plan.userProcessesMax === undefined ? [] : [same('nproc', plan.userProcessesMax)]),
    ],
    ...(config.fsMbMax === 0 ? {} : { StorageOpt: { size: `${config.fsMbMax}M` } }),
    NetworkMode: plan.network,
    // Output is read from the attached stream; nothing of it is written to a disk.
    LogConfig: { Type: 'none', Config: {} },
  }
}
