/**
 * Fn's checks of what clients write, in Fn's order and words, and the objects and patches that
 * come of it. Pure: ids and times are given.
 */
import { type ErrorCode, FndError } from '../../errors.ts'
import { parseSyslogUrl } from '../../exec/syslog-url.ts'
import type { AppPatch, FnPatch, TriggerPatch } from '../../store/commands.ts'
import type { Annotations, App, Config, Fn, Trigger } from '../../store/objects.ts'
import {
  digestSetting,
  hiddenValue,
  invokeKeySetting,
  settingFault,
  settingsFault,
  storedInvokeKey,
} from '../../store/settings.ts'
import { stringifyExact } from '../json-text.ts'
import { derivedKeys, parseTime } from './json.ts'

type Kind = 'app' | 'fn' | 'trigger'

/** The id and time of a new object. */
export interface Stamp {
  readonly id: string
  readonly nowMs: number
}

interface CommonInput {
  readonly id?: string
  readonly name?: string
  readonly annotations?: Readonly<Record<string, unknown>>
}

export interface AppInput extends CommonInput {
  readonly config?: Readonly<Record<string, string>>
  readonly syslog_url?: string
  readonly shape?: string
}

export interface FnInput extends CommonInput {
  readonly app_id?: string
  readonly image?: string
  readonly memory?: number
  readonly timeout?: number
  readonly idle_timeout?: number
  readonly config?: Readonly<Record<string, string>>
}

export interface TriggerInput extends CommonInput {
  readonly app_id?: string
  readonly fn_id?: string
  readonly type?: string
  readonly source?: string
  readonly created_at?: string
  readonly updated_at?: string
}

const nameBytesMax = 255
const annotationKeyBytesMax = 128
const annotationValueBytesMax = 512
const annotationsMax = 100
const wordName = /^[\p{L}\p{N}_-]+$/u
/** What Go's url.PathEscape leaves as it is. */
const pathName = /^[A-Za-z0-9\-_.~$&+:=@]+$/
const shapes = ['', 'GENERIC_X86', 'GENERIC_ARM', 'GENERIC_X86_ARM']

function refuseIf(condition: boolean, code: ErrorCode, field: string): void {
  if (condition) throw new FndError(code, { field })
}

/** `''` and absent mean the same on Fn's wire. */
const isUnset = (text: string | undefined): boolean => text === undefined || text === ''

const isEmptyJson = (text: string): boolean => text === '""' || text === 'null'

function checkName(name: string, kind: Kind): void {
  const rule = kind === 'fn' ? pathName : wordName
  refuseIf(Buffer.byteLength(name) > nameBytesMax, `${kind}-name-long`, 'name')
  refuseIf(!rule.test(name), `${kind}-name-invalid`, 'name')
}

/** What clients may write: derived keys are dropped, and a hidden value leaves what it hides. */
function annotationsFrom(input: CommonInput): Annotations {
  const texts: [string, string][] = []
  for (const [key, value] of Object.entries(input.annotations ?? {})) {
    if (derivedKeys.has(key)) continue
    if (key === invokeKeySetting && value === hiddenValue) continue
    texts.push([key, stringifyExact(value)])
  }
  return Object.fromEntries(texts)
}

function checkAnnotation(kind: Kind, key: string, text: string): void {
  const field = `annotations.${key.slice(0, annotationKeyBytesMax)}`
  if (!/^[!-~]+$/.test(key)) throw new FndError('annotation-key-invalid', { field: 'annotations' })
  refuseIf(key.length > annotationKeyBytesMax, 'annotation-key-long', field)
  refuseIf(isEmptyJson(text), 'annotation-value-invalid', field)
  refuseIf(Buffer.byteLength(text) > annotationValueBytesMax, 'annotation-value-long', field)
  const fault = settingFault(kind, key, text)
  if (fault !== undefined) {
    throw new FndError('invalid-field', { field, message: `${key} ${fault}` })
  }
}

/** An invoke key is kept as its hash. Other annotations are kept as they are. */
function sealed(annotations: Annotations): Annotations {
  const text = annotations[invokeKeySetting]
  if (text === undefined || isEmptyJson(text)) return annotations
  return { ...annotations, [invokeKeySetting]: storedInvokeKey(JSON.parse(text)) }
}

/** Checks what becomes of `old` under the patch; an empty value deletes its key. */
function checkedAnnotations(
  kind: Kind,
  input: CommonInput,
  old: Annotations,
  isNew: boolean,
): Annotations {
  const written = annotationsFrom(input)
  const merged = new Map(Object.entries(old))
  for (const [key, text] of Object.entries(written)) {
    if (!isNew && isEmptyJson(text)) {
      merged.delete(key)
      continue
    }
    checkAnnotation(kind, key, text)
    merged.set(key, text)
  }
  refuseIf(
    merged.size > annotationsMax && merged.size > Object.keys(old).length,
    'annotation-too-many',
    'annotations',
  )
  const fault = kind === 'fn' ? settingsFault(Object.fromEntries(merged)) : undefined
  if (fault !== undefined)
    throw new FndError('invalid-field', { field: 'annotations', message: fault })
  return sealed(written)
}

/** Config becomes environment variables: no NUL, and names without `=`. */
function configFrom(config: Readonly<Record<string, string>> | undefined): Config {
  const entries: [string, string][] = Object.entries(config ?? {})
  for (const [key, value] of entries) {
    const hasNul = key.includes('\0') || value.includes('\0')
    if (!hasNul && !key.includes('=')) continue
    throw new FndError('invalid-field', {
      field: 'config',
      message: hasNul
        ? 'config keys and values must not contain a NUL character'
        : 'config keys must not contain an equals sign',
    })
  }
  if (config !== undefined && entries.every(([key]) => key.isWellFormed())) return config
  return Object.fromEntries(entries.map(([key, value]) => [key.toWellFormed(), value]))
}

function checkSyslogUrl(url: string): void {
  if (url === '') return
  const parsed = parseSyslogUrl(url)
  if (parsed.ok) return
  throw new FndError('app-syslog-invalid', {
    field: 'syslog_url',
    message: `invalid syslog url: ${JSON.stringify(url)} ${parsed.reason}`,
  })
}

export function newApp(input: AppInput, stamp: Stamp): App {
  const { name = '', syslog_url: syslogUrl = '', shape = '' } = input
  refuseIf(!isUnset(input.id), 'app-id-given', 'id')
  refuseIf(name === '', 'app-name-missing', 'name')
  checkName(name, 'app')
  refuseIf(!shapes.includes(shape), 'app-shape-invalid', 'shape')
  checkSyslogUrl(syslogUrl)
  return {
    id: stamp.id,
    name,
    config: configFrom(input.config),
    annotations: checkedAnnotations('app', input, {}, true),
    syslogUrl,
    shape,
    createdMs: stamp.nowMs,
    updatedMs: stamp.nowMs,
  }
}

/** Before the object is looked up: a body may repeat the id of its path, and no other. */
export function checkSameId(input: CommonInput, id: string, kind: Kind): void {
  refuseIf(!isUnset(input.id) && input.id !== id, `${kind}-id-mismatch`, 'id')
}

export function appPatch(input: AppInput, old: App): AppPatch {
  refuseIf(!isUnset(input.name) && input.name !== old.name, 'app-name-immutable', 'name')
  if (input.syslog_url !== undefined) checkSyslogUrl(input.syslog_url)
  return {
    ...(isUnset(input.name) ? {} : { name: old.name }),
    ...(input.config === undefined ? {} : { config: configFrom(input.config) }),
    ...(input.annotations === undefined
      ? {}
      : { annotations: checkedAnnotations('app', input, old.annotations, false) }),
    ...(input.syslog_url === undefined ? {} : { syslogUrl: input.syslog_url }),
  }
}

interface FnNumbers {
  readonly memory: number
  readonly timeout: number
  readonly idleTimeout: number
}

function checkFnNumbers({ memory, timeout, idleTimeout }: FnNumbers): void {
  refuseIf(timeout < 1 || timeout > 300, 'fn-timeout-range', 'timeout')
  refuseIf(idleTimeout < 1 || idleTimeout > 3600, 'fn-idle-timeout-range', 'idle_timeout')
  refuseIf(memory < 1 || memory > 8192, 'fn-memory-range', 'memory')
}

/** Everything but the app, which the caller looks up next: `shape` comes from it. */
export function newFn(input: FnInput, stamp: Stamp): Fn {
  const { name = '', image = '', app_id: appId = '' } = input
  refuseIf(!isUnset(input.id), 'fn-id-given', 'id')
  refuseIf(appId === '', 'fn-app-id-missing', 'app_id')
  refuseIf(name === '', 'fn-name-missing', 'name')
  checkName(name, 'fn')
  refuseIf(image === '', 'fn-image-missing', 'image')
  // An explicit zero means the default, as on Fn.
  const memory = input.memory || 128
  const timeout = input.timeout || 30
  const idleTimeout = input.idle_timeout || 30
  checkFnNumbers({ memory, timeout, idleTimeout })
  return {
    id: stamp.id,
    name,
    appId,
    image,
    memoryMb: memory,
    timeoutS: timeout,
    idleTimeoutS: idleTimeout,
    config: configFrom(input.config),
    annotations: checkedAnnotations('fn', input, {}, true),
    shape: '',
    createdMs: stamp.nowMs,
    updatedMs: stamp.nowMs,
  }
}

export function fnPatch(input: FnInput, old: Fn): FnPatch {
  checkFnNumbers({
    memory: input.memory || old.memoryMb,
    timeout: input.timeout || old.timeoutS,
    idleTimeout: input.idle_timeout || old.idleTimeoutS,
  })
  return {
    ...(input.image ? { image: input.image } : {}),
    ...(input.memory ? { memoryMb: input.memory } : {}),
    ...(input.timeout ? { timeoutS: input.timeout } : {}),
    ...(input.idle_timeout ? { idleTimeoutS: input.idle_timeout } : {}),
    ...(input.config === undefined ? {} : { config: configFrom(input.config) }),
    ...fnAnnotations(input, old),
  }
}

/**
 * Another image has another digest. Fn's tools send all annotations back with the image they
 * change, so a digest that stays as it was is dropped too.
 */
function fnAnnotations(input: FnInput, old: Fn): { readonly annotations?: Annotations } {
  const written =
    input.annotations === undefined
      ? undefined
      : checkedAnnotations('fn', input, old.annotations, false)
  const pinned = old.annotations[digestSetting]
  const isMoved = !isUnset(input.image) && input.image !== old.image
  if (pinned !== undefined && isMoved && (written?.[digestSetting] ?? pinned) === pinned) {
    return { annotations: { ...written, [digestSetting]: '""' } }
  }
  return written === undefined ? {} : { annotations: written }
}

function checkSource(source: string): void {
  refuseIf(source === '', 'trigger-source-missing', 'source')
  refuseIf(!source.startsWith('/'), 'trigger-source-prefix', 'source')
}

const isTimeGiven = (text: string | undefined): boolean =>
  text !== undefined && parseTime(text) !== 'absent'

export function newTrigger(input: TriggerInput, stamp: Stamp): Trigger {
  const { name = '', app_id: appId = '', fn_id: fnId = '', type = '', source = '' } = input
  refuseIf(!isUnset(input.id), 'trigger-id-given', 'id')
  refuseIf(isTimeGiven(input.created_at), 'trigger-created-at-given', 'created_at')
  refuseIf(isTimeGiven(input.updated_at), 'trigger-updated-at-given', 'updated_at')
  refuseIf(appId === '', 'trigger-app-id-missing', 'app_id')
  refuseIf(name === '', 'trigger-name-missing', 'name')
  checkName(name, 'trigger')
  refuseIf(fnId === '', 'trigger-fn-id-missing', 'fn_id')
  refuseIf(type !== 'http', 'trigger-type-unsupported', 'type')
  checkSource(source)
  return {
    id: stamp.id,
    name,
    appId,
    fnId,
    type: 'http',
    source,
    annotations: checkedAnnotations('trigger', input, {}, true),
    createdMs: stamp.nowMs,
    updatedMs: stamp.nowMs,
  }
}

export function triggerPatch(input: TriggerInput, old: Trigger): TriggerPatch {
  if (input.name) checkName(input.name, 'trigger')
  if (input.source) checkSource(input.source)
  return {
    ...(input.name ? { name: input.name } : {}),
    ...(input.fn_id ? { fnId: input.fn_id } : {}),
    ...(input.source ? { source: input.source } : {}),
    ...(input.annotations === undefined
      ? {}
      : { annotations: checkedAnnotations('trigger', input, old.annotations, false) }),
  }
}
