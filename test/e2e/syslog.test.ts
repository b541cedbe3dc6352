/** What a function prints arrives at the syslog receiver of its app, with its call. */
import { expect, test } from 'bun:test'
import { authorityPath, StreamReceiver, UdpReceiver, until } from '../exec/syslog-receiver.ts'
import { Fnd, until as holds } from './fnd.ts'

const source = `
console.log('loaded')
export default {
  async fetch(request) {
    console.error('called with ' + (await request.text()))
    return new Response('answer')
  },
}`

async function call(url: string, body: string): Promise<string> {
  const response = await fetch(url, { method: 'POST', body })
  expect([response.status, await response.text()]).toEqual([200, 'answer'])
  return response.headers.get('fn-call-id') ?? ''
}

test('a line arrives over TLS with its call; what came last is sent before the end', async () => {
  await using receiver = await StreamReceiver.listen({ port: 0 }, { isTls: true })
  await using fnd = await Fnd.start({ NODE_EXTRA_CA_CERTS: authorityPath })
  const syslog_url = `tcp+tls://localhost:${receiver.port}`
  const app = await fnd.api('POST', '/v2/apps', { name: 'shop', syslog_url })
  const settings = { 'min-instances': 1 }
  const fn = await fnd.deploy('pay', { source }, { app: 'shop', settings })
  await until(() => receiver.messages.length === 1, 'a message before the first call')
  const callId = await call(fn.url, 'one')
  await until(() => receiver.messages.length === 2, 'two messages')
  const [instance] = (await fnd.describe(fn.id)).instances
  const ids = `app_id="${app.id}" fn_id="${fn.id}" app="shop" fn="pay"`
  const [started = '', called = ''] = receiver.messages
  expect(started).toMatch(/^<14>1 \S+ \S+ pay /)
  expect(started).toEndWith(` pay ${instance?.id} - [fnd@32473 ${ids}] loaded`)
  expect(called).toMatch(/^<11>1 \S+Z \S+ pay /)
  expect(called).toEndWith(
    ` ${instance?.id} ${callId} [fnd@32473 ${ids} call_id="${callId}"] called with one`,
  )
  await until(() => receiver.connections === 1, 'one connection')
  const last = await call(fn.url, 'two')
  expect(await fnd.stop()).toBe(0)
  await until(() => receiver.messages.length === 3, 'the last message')
  expect(receiver.messages[2]).toContain(`call_id="${last}"] called with two`)
  expect(receiver.faults).toEqual([])
}, 60_000)

test('calls are served without a receiver; another URL counts from the next call on', async () => {
  await using receiver = await UdpReceiver.listen(0)
  await using fnd = await Fnd.start()
  const app = await fnd.api('POST', '/v2/apps', { name: 'shop', syslog_url: 'tcp://127.0.0.1:1' })
  const fn = await fnd.deploy('pay', { source }, { app: 'shop' })
  await call(fn.url, 'one')
  await until(() => fnd.logText().includes('syslog receiver unavailable'), 'a warning')
  await fnd.api('PUT', `/v2/apps/${app.id}`, { syslog_url: `udp://127.0.0.1:${receiver.port}` })
  const callId = await call(fn.url, 'two')
  const text = `call_id="${callId}"] called with two`
  await until(() => receiver.messages.some(message => message.endsWith(text)), 'the message')
  // A scrape may be of a moment ago.
  await holds(async () => (await fnd.metric('fnd_syslog_sent_total')) === 2, 'the count')
  expect(await fnd.metric('fnd_syslog_failures_total')).toBeGreaterThan(0)
}, 60_000)
