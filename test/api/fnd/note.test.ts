import { expect, test } from 'bun:test'
import { noteApi } from '../../../src/api/fnd/note.ts'
import { systemClock } from '../../../src/clock.ts'
import { IdSource } from '../../../src/ids.ts'
import type { Command, Outcome } from '../../../src/store/commands.ts'
import type { State } from '../../../src/store/state.ts'
import { openApi } from '../harness.ts'

const path = '/fnd/v1/cluster/note'

test('only a build that stands for the next version of fnd has the route', async () => {
  await using api = await openApi()
  expect((await api.call('POST', path, { text: 'x' })).status).toBe(404)
})

test('its text goes to the state, and nothing else does', async () => {
  await using api = await openApi()
  const proposed: Command[] = []
  const propose = async (command: Command): Promise<Outcome> => {
    proposed.push(command)
    return { ok: true, object: null }
  }
  const app = noteApi({
    config: api.config,
    clock: systemClock,
    ids: new IdSource(systemClock, { machine: 1n, counter: 0 }),
    authorize: () => undefined,
    state: { propose } as unknown as State,
  })
  const answerTo = (body: object) =>
    app.handle(
      new Request(`http://fnd.test${path}`, { method: 'POST', body: JSON.stringify(body) }),
    )
  expect((await answerTo({ text: 'x', other: 1 })).status).toBe(204)
  expect((await answerTo({ text: 1 })).status).toBe(422)
  expect(proposed).toEqual([{ type: 'cluster.note', text: 'x' }])
})
