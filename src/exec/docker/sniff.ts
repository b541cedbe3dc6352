/** The type of a body whose function gave none, as Go's `http.DetectContentType` finds it. */

const sniffedBytesMax = 512

const htmlTags = [
  '<!doctype html',
  '<html',
  '<head',
  '<script',
  '<iframe',
  '<h1',
  '<div',
  '<font',
  '<table',
  '<a',
  '<style',
  '<title',
  '<b',
  '<body',
  '<br',
  '<p',
]

/** Bytes, as latin1 text, that a body of a type begins with. */
const signatures: readonly (readonly [string, string])[] = [
  ['%PDF-', 'application/pdf'],
  ['%!PS-Adobe-', 'application/postscript'],
  ['\xfe\xff', 'text/plain; charset=utf-16be'],
  ['\xff\xfe', 'text/plain; charset=utf-16le'],
  ['\xef\xbb\xbf', 'text/plain; charset=utf-8'],
  ['GIF87a', 'image/gif'],
  ['GIF89a', 'image/gif'],
  ['\x89PNG\r\n\x1a\n', 'image/png'],
  ['\xff\xd8\xff', 'image/jpeg'],
  ['BM', 'image/bmp'],
  ['\x00\x00\x01\x00', 'image/x-icon'],
  ['OggS\x00', 'application/ogg'],
  ['\x1f\x8b\x08', 'application/x-gzip'],
  ['PK\x03\x04', 'application/zip'],
]

// biome-ignore lint/suspicious/noControlCharactersInRegex: those that no text holds.
const binaryPattern = /[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]/

/** `body` is its beginning; JSON is text, as in Go. '' for an empty body. */
export function sniffedType(body: Uint8Array): string {
  if (body.length === 0) return ''
  const length = Math.min(body.length, sniffedBytesMax)
  const text = Buffer.from(body.buffer, body.byteOffset, length).toString('latin1')
  const start = text.replace(/^[\t\n\f\r ]+/, '')
  if (isHtml(start)) return 'text/html; charset=utf-8'
  if (start.startsWith('<?xml')) return 'text/xml; charset=utf-8'
  for (const [bytes, type] of signatures) if (text.startsWith(bytes)) return type
  return binaryPattern.test(text) ? 'application/octet-stream' : 'text/plain; charset=utf-8'
}

function isHtml(start: string): boolean {
  if (start.startsWith('<!--')) return true
  const lower = start.slice(0, 20).toLowerCase()
  return htmlTags.some(tag => lower.startsWith(tag) && /^[ >]/.test(lower.slice(tag.length)))
}
