import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import type { Trigger } from '../../store/objects.ts'
import type { Page, State } from '../../store/state.ts'
import {
  type AdminParts,
  adminGuard,
  deletedResponse,
  publicBase,
  stampFrom,
  triggerOf,
} from '../admin.ts'
import { json, noContent, responses, adminSecurity as security } from '../detail.ts'
import { decodePath, idFrom } from '../url.ts'
import { jsonResponse, triggerToWire } from './json.ts'
import { listBody, pageFrom } from './page.ts'
import * as wire from './schemas.ts'
import { checkSameId, newTrigger, triggerPatch } from './validate.ts'

export const triggerSchema = wire.wireObject(
  {
    id: t.Optional(wire.idSchema),
    name: t.Optional(
      t.String({
        description: 'Up to 255 bytes of letters, digits, `_` and `-`. Unique in its function.',
      }),
    ),
    app_id: t.Optional(t.String({ description: 'The app it belongs to. Never changes.' })),
    fn_id: t.Optional(t.String({ description: 'The function it calls, of the same app.' })),
    type: t.Optional(t.String({ description: '`http`.' })),
    source: t.Optional(
      t.String({
        description: 'Path under `/t/<app>`, with its leading slash. Unique in its app.',
      }),
    ),
    annotations: t.Optional(wire.annotationsSchema),
    created_at: t.Optional(wire.createdAtSchema),
    updated_at: t.Optional(wire.updatedAtSchema),
  },
  'A URL that calls a function.',
)

const params = t.Object({ trigger_id: wire.idParameter('Id of the trigger') })
const sourceParams = t.Object({
  app_id: wire.idParameter('Id of the app'),
  type: wire.idParameter('`http`'),
  '*': wire.idParameter('The source, with its leading slash'),
})
const tags = ['Triggers']

const listRoute = {
  query: t.Object(
    {
      ...wire.pageQuery,
      app_id: t.Optional(t.String({ description: 'Id of the app. Required.' })),
      fn_id: t.Optional(t.String({ description: 'Id of the function.' })),
      name: wire.nameQuery,
    },
    { additionalProperties: true },
  ),
  detail: {
    tags,
    security,
    summary: 'List the triggers of an app',
    description: 'Triggers by name, a page at a time.',
    responses: responses({ 200: json('TriggerList', 'A page of triggers') }, 400),
  },
}

const createRoute = {
  body: triggerSchema,
  detail: {
    tags,
    security,
    summary: 'Create a trigger',
    description: 'Matches its source exactly.',
    responses: responses({ 200: json('Trigger', 'The trigger as it is now') }, 400, 404, 409, 413),
  },
}

const getRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Get a trigger',
    description: 'The annotation `fnproject.io/trigger/httpEndpoint` is its URL.',
    responses: responses({ 200: json('Trigger', 'The trigger') }, 404),
  },
}

const updateRoute = {
  params,
  body: triggerSchema,
  detail: {
    tags,
    security,
    summary: 'Update a trigger',
    description: 'Name, function, source and annotations may change.',
    responses: responses({ 200: json('Trigger', 'The trigger as it is now') }, 400, 404, 409, 413),
  },
}

const deleteRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Delete a trigger',
    description: 'The function stays.',
    responses: responses(noContent, 404),
  },
}

const sourceRoute = {
  params: sourceParams,
  detail: {
    tags,
    security,
    summary: 'Find a trigger by its source',
    description:
      "For Fn's load balancer nodes: the source keeps its slash, so two slashes follow the type.",
    responses: responses({ 200: json('Trigger', 'The trigger') }, 404),
  },
}

type TriggerFilter = Parameters<State['triggers']>[0]

/**
 * Functions of one app may have triggers of one name, and a cursor is a name: a page that ended
 * between namesakes would lose the rest of them. So it ends behind the last, over the limit if
 * need be.
 */
function wholePage(state: State, filter: TriggerFilter, page: Page): readonly Trigger[] {
  const triggers = state.triggers(filter, page)
  const last = triggers.at(-1)
  if (last === undefined || triggers.length < page.limit) return triggers
  const all = { after: '', limit: 2 ** 31 - 1 }
  const namesakes = state.triggers({ ...filter, name: last.name }, all)
  return [...triggers, ...namesakes.filter(({ id }) => id > last.id)]
}

export function triggersApi(parts: AdminParts) {
  const { state } = parts

  const mustFind = (id: string): Trigger => {
    const trigger = state.trigger(id)
    if (trigger === undefined) throw new FndError('trigger-not-found')
    return trigger
  }

  const annotated = (trigger: Trigger, request: Request): object => {
    const app = state.app(trigger.appId)
    // The app may be deleted, with all its triggers, while a create is on its way back.
    if (app === undefined) return triggerToWire(trigger, undefined)
    const base = publicBase(parts.config, request)
    return triggerToWire(trigger, { base, appName: app.name })
  }

  return new Elysia()
    .use(adminGuard(parts))
    .get(
      '/v2/triggers',
      ({ query, request }) => {
        if (!query.app_id) throw new FndError('trigger-app-id-missing', { field: 'app_id' })
        const page = pageFrom(query)
        const fnId = query.fn_id ? { fnId: query.fn_id } : {}
        const name = query.name ? { name: query.name } : {}
        const triggers = wholePage(state, { appId: query.app_id, ...fnId, ...name }, page)
        return jsonResponse(listBody(triggers, page, trigger => annotated(trigger, request)))
      },
      listRoute,
    )
    .post(
      '/v2/triggers',
      async ({ body, request }) => {
        const trigger = newTrigger(body, stampFrom(parts))
        const outcome = await state.propose({ type: 'trigger.create', trigger })
        return jsonResponse(annotated(triggerOf(outcome), request))
      },
      createRoute,
    )
    .get(
      '/v2/triggers/:trigger_id',
      ({ params, request }) =>
        jsonResponse(annotated(mustFind(idFrom(params.trigger_id)), request)),
      getRoute,
    )
    .put(
      '/v2/triggers/:trigger_id',
      async ({ params, body }) => {
        const id = idFrom(params.trigger_id)
        checkSameId(body, id, 'trigger')
        const patch = triggerPatch(body, mustFind(id))
        const atMs = parts.clock.nowMs()
        const outcome = await state.propose({ type: 'trigger.update', id, atMs, patch })
        return jsonResponse(triggerToWire(triggerOf(outcome), undefined))
      },
      updateRoute,
    )
    .delete(
      '/v2/triggers/:trigger_id',
      async ({ params }) => {
        const { id } = mustFind(idFrom(params.trigger_id))
        return deletedResponse(await state.propose({ type: 'trigger.delete', id }))
      },
      deleteRoute,
    )
    .get(
      '/v2/runner/apps/:app_id/triggerBySource/:type/*',
      ({ params }) => {
        const source = typeof params['*'] === 'string' ? decodePath(params['*']) : ''
        const isHttp = params.type === 'http'
        const trigger = isHttp ? state.triggerBySource(idFrom(params.app_id), source) : undefined
        if (trigger === undefined) throw new FndError('trigger-not-found')
        return jsonResponse(triggerToWire(trigger, undefined))
      },
      sourceRoute,
    )
}
