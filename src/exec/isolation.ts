import type { Isolation, IsolationMeasure } from './driver.ts'
import type { ChildLimits } from './sandbox.ts'

export interface IsolationFacts {
  readonly level: 'namespaces' | 'process'
  readonly hasMemoryGroup: boolean
  readonly hasSeccomp: boolean
  readonly hasPidsGroup: boolean
  readonly limits: ChildLimits
  readonly refusals: { readonly namespaces: string; readonly cgroups: string }
  readonly network: 'host' | 'none'
}

/** What is in force, in words for `fnd doctor`. */
export function isolationOf(facts: IsolationFacts): Isolation {
  const { level, limits, refusals } = facts
  const isNamespaced = level === 'namespaces'
  const because = (note: string) => (isNamespaced ? note : refusals.namespaces)
  const measure = (name: string, enforced: boolean, note: string): IsolationMeasure => ({
    name,
    enforced,
    note,
  })
  return {
    level,
    measures: [
      measure('filesystem', isNamespaced, because('own root, read-only; own /tmp')),
      measure('tmp-size', isNamespaced, because(`${limits.tmpBytesMax} bytes in /tmp`)),
      measure('uid', isNamespaced, because('own uid, no capabilities')),
      measure('pids', isNamespaced, because('sees and signals only its own processes')),
      measure(
        'process-count',
        isNamespaced || facts.hasPidsGroup,
        facts.hasPidsGroup || isNamespaced
          ? `at most ${limits.pidsMax} processes and threads`
          : refusals.cgroups,
      ),
      measure(
        'memory',
        true,
        facts.hasMemoryGroup
          ? 'by the kernel, in a cgroup'
          : `watched every 100 ms, a short burst can exceed it (${refusals.cgroups})`,
      ),
      measure('open-files', true, `at most ${limits.openFilesMax} descriptors`),
      measure('no-new-privileges', true, 'setuid programs give no privileges'),
      measure(
        'system-calls',
        facts.hasSeccomp,
        facts.hasSeccomp
          ? 'namespaces, mounts, tracing, keys and modules are refused'
          : 'the kernel has no seccomp filters',
      ),
      measure('left-behind', isNamespaced, because('the kernel ends all its processes with it')),
      measure(
        'network',
        facts.network === 'none' && isNamespaced,
        facts.network === 'none' ? because('no network at all') : 'uses the network of the host',
      ),
    ],
  }
}
