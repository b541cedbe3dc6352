/**
 * JSON as Fn's clients expect it from a Go server: the first value of the text counts and what
 * follows is ignored, and a number comes back digit for digit. A number that a double cannot hold
 * as written is carried as a `JSON.rawJSON` object, which only `stringifyExact` needs to
 * understand; any check for a plain number refuses it.
 */

/** The parts of JSON that the standard library's types do not know yet (JSON.parse source text). */
interface ExactJson {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown
  rawJSON(text: string): object
}

const exact = JSON as unknown as ExactJson

/** Deeper values are refused: recursion over them would end in a stack overflow. */
const depthMax = 500

/** Index after the first value when it is an object, or undefined when there is none. */
function objectEnd(text: string, start: number): number | undefined {
  let depth = 0
  let isInString = false
  for (let at = start; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (isInString) {
      if (code === 0x5c /* \ */) at++
      else if (code === 0x22 /* " */) isInString = false
      continue
    }
    if (code === 0x22) isInString = true
    else if (code === 0x7b /* { */ || code === 0x5b /* [ */) {
      depth++
      if (depth > depthMax) return undefined
    } else if (code === 0x7d /* } */ || code === 0x5d /* ] */) {
      depth--
      if (depth === 0) return at + 1
    }
  }
  return undefined
}

function revive(_key: string, value: unknown, context: { readonly source?: string }): unknown {
  if (typeof value === 'number') {
    const { source } = context
    return source === undefined || String(value) === source ? value : exact.rawJSON(source)
  }
  // Go replaces lone surrogates too; SQLite and environments could not hold them.
  if (typeof value === 'string') return value.toWellFormed()
  return value
}

/** Whether `revive` would leave all of it as it is, and it is not too deep. */
function isPlain(value: unknown, depthLeft: number): boolean {
  if (typeof value === 'string') return value.isWellFormed()
  if (typeof value !== 'object' || value === null) return typeof value !== 'number'
  if (depthLeft === 0) return false
  const fields = value as Readonly<Record<string, unknown>>
  for (const key in fields) if (!isPlain(fields[key], depthLeft - 1)) return false
  return true
}

/**
 * The text as one value when the usual parser gives the same as the exact one, which takes several
 * times as long. Undefined when that is not certain, or the text is no such value.
 */
function parsePlain(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isPlain(value, depthMax) ? (value as Record<string, unknown>) : undefined
  } catch (error) {
    // Too deep, or not one value alone: the exact way finds out.
    if (error instanceof SyntaxError || error instanceof RangeError) return undefined
    throw error
  }
}

/** The first JSON object of the text; `null` counts as `{}`, as in Go. Undefined when invalid. */
export function parseFirstObject(text: string): Record<string, unknown> | undefined {
  const start = text.search(/[^ \t\r\n]/)
  if (start === -1) return undefined
  if (text[start] !== '{')
    return /^null(?![\w.+-])/.test(text.slice(start, start + 5)) ? {} : undefined
  const plain = parsePlain(text)
  if (plain !== undefined) return plain
  const end = objectEnd(text, start)
  if (end === undefined) return undefined
  try {
    return exact.parse(text.slice(start, end), revive) as Record<string, unknown>
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** Parses a whole text that `stringifyExact` wrote. */
export function parseExact(text: string): unknown {
  return exact.parse(text, revive)
}

/** Compact JSON text in which numbers stand as they were sent. */
export function stringifyExact(value: unknown): string {
  return JSON.stringify(value)
}
