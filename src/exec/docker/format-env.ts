/** The environment of containers that speak the older formats (fn-api.md §2.8, §3.3). */
import type { FnSpec } from '../driver.ts'
import { type FormatCall, utf8From } from './format-call.ts'

/** What fnd sets itself, whatever the config says. */
const reservedNames: ReadonlySet<string> = new Set([
  'FN_APP_ID',
  'FN_APP_NAME',
  'FN_FN_ID',
  'FN_FN_NAME',
  'FN_FORMAT',
  'FN_LISTENER',
  'FN_MEMORY',
  'FN_TYPE',
])

type Env = Record<string, string>
type EnvSpec = Pick<FnSpec, 'env' | 'format' | 'dialect' | 'fnName' | 'appName' | 'memoryMb'>

/**
 * The environment of a container, for every format. A hot container is made before its first call,
 * so it is told the path that the function's trigger has by custom; each call names its own.
 */
export function containerEnv(spec: EnvSpec): Env {
  const env = spec.dialect === 'iron' ? upperCased(spec.env) : { ...spec.env }
  if (spec.format === 'http-stream') return env
  const route = `/${spec.fnName}`
  if (spec.dialect === 'iron') {
    return {
      APP_NAME: spec.appName,
      ROUTE: route,
      MEMORY_MB: String(spec.memoryMb),
      ...env,
    }
  }
  // 0 stands for no limit, as in Fn. FN_CPUS is set only where there is one, and fnd has none.
  return { FN_TMPSIZE: '0', ...env, FN_PATH: route }
}

/** The environment of a container of the format `default`, which lives for this one call. */
export function callEnv(spec: EnvSpec, call: FormatCall): Env {
  const env = containerEnv(spec)
  if (spec.dialect === 'iron') return { ...env, ...ironCallEnv(call) }
  Object.assign(env, {
    FN_PATH: call.path,
    FN_CALL_ID: call.id,
    FN_DEADLINE: call.deadline,
    FN_METHOD: call.method,
    FN_REQUEST_URL: call.url,
  })
  for (const [name, value] of joined(call.headers, ', ')) {
    // The first is what Fn did, the second what its documents said, and shells can read.
    env[`FN_HEADER_${name}`] = value
    env[`FN_HEADER_${envName(name)}`] = value
  }
  return env
}

/** What IronFunctions says of a call; with the config, also the headers of its format `http`. */
export function ironCallEnv(call: FormatCall): Env {
  const env: Env = {
    METHOD: call.method,
    ROUTE: call.path,
    REQUEST_URL: call.url,
    CALL_ID: call.id,
  }
  for (const [name, value] of joined(call.headers, ' ')) env[`HEADER_${envName(name)}`] = value
  return env
}

function upperCased(env: Readonly<Env>): Env {
  const named: Env = {}
  for (const [name, value] of Object.entries(env)) named[envName(name)] = value
  // A config name that turns into a reserved one does not win over it.
  for (const name of reservedNames) {
    const value = env[name]
    if (value !== undefined) named[name] = value
    else delete named[name]
  }
  return named
}

function envName(name: string): string {
  return name.toUpperCase().replaceAll('-', '_')
}

function joined(headers: FormatCall['headers'], separator: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const [name, value] of headers) {
    const before = found.get(name)
    const text = utf8From(value)
    found.set(name, before === undefined ? text : `${before}${separator}${text}`)
  }
  return found
}
