import type { DockerConfig } from '../../config-docker.ts'
import type { FnSpec, Isolation, IsolationMeasure } from '../driver.ts'
import type { ContainerLimits } from './container-spec.ts'

export interface ContainerFacts {
  readonly config: DockerConfig
  readonly limits: ContainerLimits
  /** Whether the directory for sockets is a small file system of its own. */
  readonly hasSmallIofs: boolean
  readonly spec: FnSpec | undefined
}

/** What is in force for a container, in words for `fnd doctor`; names as for processes. */
export function containerIsolation(facts: ContainerFacts): Isolation {
  const { config, limits, spec } = facts
  const isIron = spec?.dialect === 'iron'
  const isConfined = !config.isPrivileged && !isIron
  const isReadOnly = !config.isRootWritable && !isIron
  const why = isIron ? 'fnd.io/dialect is iron' : 'FND_DISABLE_UNPRIVILEGED_CONTAINERS is set'
  const measure = (name: string, enforced: boolean, note: string): IsolationMeasure => ({
    name,
    enforced,
    note,
  })
  return {
    level: 'namespaces',
    measures: [
      measure(
        'filesystem',
        isReadOnly,
        isReadOnly ? "the image's own root, read-only" : 'its root can be written to',
      ),
      measure(
        'tmp-size',
        facts.hasSmallIofs,
        facts.hasSmallIofs
          ? `${limits.tmpBytesMax} bytes in /tmp`
          : `${limits.tmpBytesMax} bytes in /tmp; the directory for its socket has no limit`,
      ),
      measure('uid', isConfined, isConfined ? 'uid 1000, no capabilities' : why),
      measure('pids', true, 'sees and signals only its own processes'),
      measure('process-count', true, `at most ${limits.pidsMax} processes and threads`),
      measure('memory', true, 'by the kernel, in a cgroup'),
      measure('open-files', true, `at most ${limits.openFilesMax} descriptors`),
      measure('no-new-privileges', isConfined, isConfined ? 'setuid programs give none' : why),
      measure('system-calls', true, "Docker's own seccomp filter"),
      measure('left-behind', true, 'the kernel ends all its processes with it'),
      measure(
        'network',
        true,
        spec?.network === 'none' ? 'no network at all' : 'a network of its own behind Docker',
      ),
    ],
  }
}
