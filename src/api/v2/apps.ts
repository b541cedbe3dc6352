import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import type { App } from '../../store/objects.ts'
import { type AdminParts, adminGuard, appOf, deletedResponse, stampFrom } from '../admin.ts'
import { json, noContent, responses, adminSecurity as security } from '../detail.ts'
import { idFrom } from '../url.ts'
import { appToWire, jsonResponse } from './json.ts'
import { listBody, pageFrom } from './page.ts'
import * as wire from './schemas.ts'
import { appPatch, checkSameId, newApp } from './validate.ts'

export const appSchema = wire.wireObject(
  {
    id: t.Optional(wire.idSchema),
    name: t.Optional(
      t.String({ description: 'Up to 255 bytes of letters, digits, `_` and `-`. Never changes.' }),
    ),
    config: t.Optional(wire.configSchema),
    annotations: t.Optional(wire.annotationsSchema),
    syslog_url: t.Optional(
      t.String({ description: 'Where logs go: tcp, udp, unix, unixgram or tcp+tls.' }),
    ),
    shape: t.Optional(
      t.String({ description: '`GENERIC_X86`, `GENERIC_ARM`, `GENERIC_X86_ARM` or empty.' }),
    ),
    created_at: t.Optional(wire.createdAtSchema),
    updated_at: t.Optional(wire.updatedAtSchema),
  },
  'A group of functions that share configuration and a URL prefix.',
)

const params = t.Object({ app_id: wire.idParameter('Id of the app') })
const tags = ['Apps']

const listRoute = {
  query: t.Object({ ...wire.pageQuery, name: wire.nameQuery }, { additionalProperties: true }),
  detail: {
    tags,
    security,
    summary: 'List apps',
    description: 'Apps by name, a page at a time.',
    responses: responses({ 200: json('AppList', 'A page of apps') }, 400),
  },
}

const createRoute = {
  body: appSchema,
  detail: {
    tags,
    security,
    summary: 'Create an app',
    description: 'Names are unique.',
    responses: responses({ 200: json('App', 'The app as it is now') }, 400, 409, 413),
  },
}

const getRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Get an app',
    description: 'Looks up by id; use the list with `name` to find an id.',
    responses: responses({ 200: json('App', 'The app') }, 404),
  },
}

const updateRoute = {
  params,
  body: appSchema,
  detail: {
    tags,
    security,
    summary: 'Update an app',
    description: 'Fields that are left out keep their value; the name cannot change.',
    responses: responses({ 200: json('App', 'The app as it is now') }, 400, 404, 409, 413),
  },
}

const deleteRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Delete an app',
    description: 'Its functions and triggers go with it.',
    responses: responses(noContent, 404),
  },
}

export function appsApi(parts: AdminParts) {
  const { state } = parts

  const mustFind = (id: string): App => {
    const app = state.app(id)
    if (app === undefined) throw new FndError('app-not-found')
    return app
  }

  return new Elysia()
    .use(adminGuard(parts))
    .get(
      '/v2/apps',
      ({ query }) => {
        const page = pageFrom(query)
        const apps = state.apps(query.name ? { name: query.name } : {}, page)
        return jsonResponse(listBody(apps, page, appToWire))
      },
      listRoute,
    )
    .post(
      '/v2/apps',
      async ({ body }) => {
        const app = newApp(body, stampFrom(parts))
        return jsonResponse(appToWire(appOf(await state.propose({ type: 'app.create', app }))))
      },
      createRoute,
    )
    .get(
      '/v2/apps/:app_id',
      ({ params }) => jsonResponse(appToWire(mustFind(idFrom(params.app_id)))),
      getRoute,
    )
    .put(
      '/v2/apps/:app_id',
      async ({ params, body }) => {
        const id = idFrom(params.app_id)
        checkSameId(body, id, 'app')
        const patch = appPatch(body, mustFind(id))
        const atMs = parts.clock.nowMs()
        const outcome = await state.propose({ type: 'app.update', id, atMs, patch })
        return jsonResponse(appToWire(appOf(outcome)))
      },
      updateRoute,
    )
    .delete(
      '/v2/apps/:app_id',
      async ({ params }) => {
        const { id } = mustFind(idFrom(params.app_id))
        return deletedResponse(await state.propose({ type: 'app.delete', id }))
      },
      deleteRoute,
    )
}
