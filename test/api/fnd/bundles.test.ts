import { afterAll, beforeAll, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { pack } from 'tar-stream'
import { type Harness, openApi } from '../harness.ts'

let api: Harness
beforeAll(async () => {
  api = await openApi({ env: { FND_MAX_BUNDLE_SIZE: '100000' } })
})
afterAll(() => api[Symbol.asyncDispose]())

interface Archive {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly hash: string
}

async function archiveOf(files: Record<string, string>): Promise<Archive> {
  const tar = pack()
  for (const [name, content] of Object.entries(files)) tar.entry({ name }, content)
  tar.finalize()
  const chunks: Uint8Array[] = []
  for await (const chunk of tar) chunks.push(chunk as Uint8Array)
  const bytes = new Uint8Array(Buffer.concat(chunks))
  return { bytes, hash: `sha256-${createHash('sha256').update(bytes).digest('hex')}` }
}

const manifest = { version: 1, kind: 'module', entry: 'main.js' }
const program = { 'fnd.json': JSON.stringify(manifest), 'main.js': 'export default () => 1' }

async function put(hash: string, body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>) {
  const headers = { authorization: 'Bearer a-token-for-tests-0123456789' }
  const url = `http://fnd.test/fnd/v1/bundles/${hash}`
  const response = await api.app.handle(new Request(url, { method: 'PUT', headers, body }))
  return { status: response.status, body: (await response.json()) as { code?: string } }
}

test('a bundle goes up as a stream, twice if need be, and is described', async () => {
  const { bytes, hash } = await archiveOf(program)
  expect((await api.call('HEAD', `/fnd/v1/bundles/${hash}`)).status).toBe(404)
  const pieces = new ReadableStream<Uint8Array>({
    start: controller => {
      for (let at = 0; at < bytes.length; at += 700) controller.enqueue(bytes.slice(at, at + 700))
      controller.close()
    },
  })
  expect(await put(hash, pieces)).toMatchObject({ status: 200, body: { hash, manifest } })
  expect(await put(hash, bytes)).toMatchObject({ status: 200, body: { hash, manifest } })
  expect((await api.call('HEAD', `/fnd/v1/bundles/${hash}`)).status).toBe(200)
  const read = await api.call('GET', `/fnd/v1/bundles/${hash}`)
  expect(read.body).toMatchObject({ hash, manifest })
})

test('a wrong name, a wrong hash, no tar, and too much are refused', async () => {
  const { bytes, hash } = await archiveOf({ ...program, 'other.js': '1' })
  const other = `sha256-${'0'.repeat(64)}`
  const big = await archiveOf({ ...program, big: 'x'.repeat(200_000) })
  const cases: readonly [string, Uint8Array<ArrayBuffer>, number, string][] = [
    ['sha256-xyz', bytes, 400, 'bundle-hash-invalid'],
    [hash.toUpperCase(), bytes, 400, 'bundle-hash-invalid'],
    ['%2e%2e%2f', bytes, 400, 'bundle-hash-invalid'],
    [other, bytes, 400, 'bundle-hash-mismatch'],
    [hash, new Uint8Array(1000).fill(7), 400, 'bundle-invalid'],
    [hash, new Uint8Array(0), 400, 'bundle-hash-mismatch'],
    [big.hash, big.bytes, 413, 'bundle-too-large'],
  ]
  for (const [name, content, status, code] of cases) {
    const answer = await put(name, content)
    expect([answer.status, answer.body.code]).toEqual([status, code])
  }
  expect((await api.call('GET', `/fnd/v1/bundles/${hash}`)).body.code).toBe('bundle-not-found')
})

test('an uploader that goes away leaves nothing, and is no fault of ours', async () => {
  const { bytes, hash } = await archiveOf({ ...program, 'third.js': '1' })
  const broken = new ReadableStream<Uint8Array>({
    pull: controller => {
      controller.enqueue(bytes.slice(0, 600))
      controller.error(new Error('connection reset'))
    },
  })
  expect(await put(hash, broken)).toMatchObject({ status: 444, body: { code: 'client-gone' } })
  expect((await api.call('HEAD', `/fnd/v1/bundles/${hash}`)).status).toBe(404)
  expect(api.logLines).toEqual([])
})
