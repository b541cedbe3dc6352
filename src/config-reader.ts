/** Reads settings from an environment that is handed in, and collects every fault. */
import { readFileSync } from 'node:fs'

export type Env = Readonly<Record<string, string | undefined>>

/** A timer of more fires at once. */
export const timerMsMax = 2 ** 31 - 1

/** One variable, by any of its names; `NAME_FILE` reads the file and drops its last newline. */
function lookup(env: Env, names: readonly string[], faults: string[]): string | undefined {
  for (const name of names) {
    const value = env[name]
    if (value !== undefined && value !== '') return value
    const file = env[`${name}_FILE`]
    if (file === undefined || file === '') continue
    try {
      return readFileSync(file, 'utf8').replace(/\r?\n$/, '')
    } catch (cause) {
      faults.push(`${name}_FILE: cannot read ${file} (${(cause as Error).message})`)
    }
  }
  return undefined
}

export class Reader {
  readonly faults: string[] = []
  readonly #env: Env

  constructor(env: Env) {
    this.#env = env
  }

  text(names: readonly string[], fallback: string): string {
    return lookup(this.#env, names, this.faults) ?? fallback
  }

  count(
    names: readonly string[],
    fallback: number,
    { min = 0, max = Number.MAX_SAFE_INTEGER } = {},
  ): number {
    const text = lookup(this.#env, names, this.faults)
    if (text === undefined) return fallback
    const value = Number(text)
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value
    this.faults.push(`${names[0]}: "${text}" is not a whole number from ${min} to ${max}`)
    return fallback
  }

  /** Go durations as Fn takes them (`30s`, `500ms`, `2m`), or plain seconds. In ms. */
  durationMs(names: readonly string[], fallbackMs: number): number {
    const text = lookup(this.#env, names, this.faults)
    if (text === undefined) return fallbackMs
    const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text)
    if (match === null) {
      this.faults.push(`${names[0]}: "${text}" is not a duration such as 500ms, 30s or 2m`)
      return fallbackMs
    }
    const unitMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[match[2] ?? 's'] ?? 1000
    const valueMs = Number(match[1]) * unitMs
    if (valueMs <= timerMsMax) return valueMs
    this.faults.push(`${names[0]}: "${text}" is more than ${Math.floor(timerMsMax / 3_600_000)}h`)
    return fallbackMs
  }

  flag(names: readonly string[]): boolean {
    const text = this.text(names, '')
    return text !== '' && !/^(0|false|no|off)$/i.test(text)
  }

  list(names: readonly string[]): string[] {
    return this.text(names, '')
      .split(',')
      .map(part => part.trim())
      .filter(part => part !== '')
  }
}
