/** Hears of every instance: its output finds its call, its life is counted and logged. */
import type { Logger } from '../log.ts'
import type { InstanceEvent, InstanceObserver } from './observers.ts'
import type { CallOutput } from './output.ts'
import type { SyslogSender } from './syslog.ts'

export class InstanceWatch implements InstanceObserver {
  readonly #output: CallOutput
  readonly #syslog: SyslogSender
  readonly #log: Logger
  startsTotal = 0
  startFailuresTotal = 0
  evictionsTotal = 0

  constructor(output: CallOutput, syslog: SyslogSender, log: Logger) {
    this.#output = output
    this.#syslog = syslog
    this.#log = log
  }

  begin(instanceId: string, fnId: string, callId: string): void {
    this.#output.begin(instanceId, fnId, callId)
  }

  end(instanceId: string, callId: string): void {
    this.#output.end(instanceId, callId)
  }

  event(event: InstanceEvent): void {
    const { instanceId, spec } = event
    const about = { instance: instanceId, app: spec.appName, fn: spec.fnName, fn_id: spec.fnId }
    switch (event.kind) {
      case 'starting':
        this.startsTotal += 1
        this.#output.open(instanceId, spec.fnId, this.#syslog.copyFor(spec, instanceId))
        return
      case 'ready':
        this.#log.debug({ ...about, pid: event.pid, start_ms: event.startMs }, 'instance ready')
        return
      case 'start-failed':
        this.startFailuresTotal += 1
        this.#output.close(instanceId)
        this.#log.warn({ ...about, reason: event.error.message }, 'instance did not start')
        return
      case 'paused':
      case 'resumed':
        this.#log.debug(about, `instance ${event.kind}`)
        return
      case 'pause-failed':
        this.#log.warn({ ...about, reason: event.error.message }, 'instance was not paused')
        return
      case 'resume-failed':
        this.#log.warn({ ...about, reason: event.error.message }, 'instance was not resumed')
        return
      case 'stopping':
        if (event.why === 'evicted') this.evictionsTotal += 1
        this.#log.debug({ ...about, why: event.why }, 'instance is told to stop')
        return
      case 'gone':
        this.#output.close(instanceId)
        this.#log.debug({ ...about, reason: event.reason }, 'instance is gone')
    }
  }
}
