/**
 * Whether a value is a command that can be applied. What comes from another node may be anything,
 * and a command that makes `apply` throw would end every node that reads the log, at every start:
 * so a leader looks before it logs. Conflicts with the rows are found by `apply`. Pure.
 */
import type { Command } from './commands.ts'

type Check = (value: unknown) => boolean
type Shape = Readonly<Record<string, Check>>

const text: Check = value => typeof value === 'string'
/** What SQLite keeps in a column of whole numbers. */
const count: Check = value => Number.isSafeInteger(value) && (value as number) >= 0
const id: Check = value => count(value) && (value as number) > 0
const texts: Check = value => isObject(value) && Object.values(value).every(text)
const http: Check = value => value === 'http'
const state: Check = value =>
  typeof value === 'string' && ['active', 'draining', 'leaving', 'replaced'].includes(value)

const optional =
  (check: Check): Check =>
  value =>
    value === undefined || check(value)
const object =
  (shape: Shape): Check =>
  value =>
    isObject(value) && fits(value, shape)

const times: Shape = { createdMs: count, updatedMs: count }
const common: Shape = { id: text, name: text, annotations: texts, ...times }
const app = object({ ...common, config: texts, syslogUrl: text, shape: text })
const limits: Shape = { memoryMb: count, timeoutS: count, idleTimeoutS: count }
const fn = object({ ...common, ...limits, appId: text, image: text, config: texts, shape: text })
const trigger = object({ ...common, appId: text, fnId: text, type: http, source: text })
const login = object({ appId: text, host: text, username: text, sealed: text, updatedMs: count })

const maps: Shape = { config: optional(texts), annotations: optional(texts) }
const appPatch = object({ ...maps, name: optional(text), syslogUrl: optional(text) })
const fnPatch = object({
  ...maps,
  image: optional(text),
  memoryMb: optional(count),
  timeoutS: optional(count),
  idleTimeoutS: optional(count),
})
const triggerPatch = object({
  annotations: optional(texts),
  name: optional(text),
  fnId: optional(text),
  source: optional(text),
})
const nodePatch = object({
  name: optional(text),
  peerAddress: optional(text),
  apiUrl: optional(text),
  version: optional(text),
  commandVersion: optional(id),
  state: optional(state),
})

const shapes: Readonly<Record<Command['type'], Shape>> = {
  'app.create': { app },
  'app.update': { id: text, atMs: count, patch: appPatch },
  'app.delete': { id: text },
  'fn.create': { fn },
  'fn.update': { id: text, atMs: count, patch: fnPatch },
  'fn.delete': { id: text },
  'trigger.create': { trigger },
  'trigger.update': { id: text, atMs: count, patch: triggerPatch },
  'trigger.delete': { id: text },
  'registry.set': { login },
  'registry.delete': { appId: text, host: text },
  'node.join': {
    id: optional(id),
    uuid: text,
    name: text,
    peerAddress: text,
    apiUrl: text,
    version: text,
    commandVersion: id,
    atMs: count,
  },
  'node.update': { id, atMs: count, patch: nodePatch },
  'node.remove': { id },
  'cluster.version': { version: id },
  'cluster.note': { text },
}

/** A kind that is not known here may be of a later fnd: the codec refuses it in those words. */
export function mayBeCommand(value: unknown): value is Command {
  if (!isObject(value) || typeof value.type !== 'string') return false
  return !Object.hasOwn(shapes, value.type) || fits(value, shapes[value.type as Command['type']])
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function fits(value: Readonly<Record<string, unknown>>, shape: Shape): boolean {
  return Object.entries(shape).every(([key, check]) =>
    check(Object.hasOwn(value, key) ? value[key] : undefined),
  )
}
