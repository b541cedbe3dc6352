import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import type { Fn } from '../../store/objects.ts'
import {
  type AdminParts,
  adminGuard,
  deletedResponse,
  fnOf,
  publicBase,
  stampFrom,
} from '../admin.ts'
import { json, noContent, responses, adminSecurity as security } from '../detail.ts'
import { idFrom } from '../url.ts'
import { fnToWire, jsonResponse } from './json.ts'
import { listBody, pageFrom } from './page.ts'
import * as wire from './schemas.ts'
import { checkSameId, fnPatch, newFn } from './validate.ts'

export const fnSchema = wire.wireObject(
  {
    id: t.Optional(wire.idSchema),
    name: t.Optional(
      t.String({ description: 'Up to 255 bytes, safe in a URL path. Unique in its app.' }),
    ),
    app_id: t.Optional(t.String({ description: 'The app it belongs to. Never changes.' })),
    image: t.Optional(
      t.String({
        description: 'A Docker reference, or `bundle:sha256-<hex>` of an uploaded bundle.',
      }),
    ),
    memory: t.Optional(wire.integer({ minimum: 0, description: 'MB, 1 to 8192. Default 128.' })),
    timeout: t.Optional(
      wire.integer({ description: 'Seconds a call may take, 1 to 300. Default 30.' }),
    ),
    idle_timeout: t.Optional(
      wire.integer({ description: 'Seconds an idle instance is kept, 1 to 3600. Default 30.' }),
    ),
    config: t.Optional(wire.configSchema),
    annotations: t.Optional(wire.annotationsSchema),
    shape: t.Optional(t.String({ description: "The app's shape when the function was made." })),
    created_at: t.Optional(wire.createdAtSchema),
    updated_at: t.Optional(wire.updatedAtSchema),
  },
  'Code and how to run it. Settings of fnd are the annotations `fnd.io/concurrency`, ' +
    '`fnd.io/min-instances`, `fnd.io/max-instances` and `fnd.io/network`.',
)

const params = t.Object({ fn_id: wire.idParameter('Id of the function') })
const tags = ['Functions']

const listRoute = {
  query: t.Object(
    {
      ...wire.pageQuery,
      app_id: t.Optional(t.String({ description: 'Id of the app. Required.' })),
      name: wire.nameQuery,
    },
    { additionalProperties: true },
  ),
  detail: {
    tags,
    security,
    summary: 'List the functions of an app',
    description: 'Functions by name, a page at a time. An unknown app has none.',
    responses: responses({ 200: json('FnList', 'A page of functions') }, 400),
  },
}

const createRoute = {
  body: fnSchema,
  detail: {
    tags,
    security,
    summary: 'Create a function',
    description: 'The image is not looked at before the first call.',
    responses: responses({ 200: json('Fn', 'The function as it is now') }, 400, 404, 409, 413),
  },
}

const getRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Get a function',
    description: 'The annotation `fnproject.io/fn/invokeEndpoint` is where to call it.',
    responses: responses({ 200: json('Fn', 'The function') }, 404),
  },
}

const updateRoute = {
  params,
  body: fnSchema,
  detail: {
    tags,
    security,
    summary: 'Update a function',
    description:
      'Fields that are left out, or zero, keep their value. Name, app and shape never change.',
    responses: responses({ 200: json('Fn', 'The function as it is now') }, 400, 404, 413),
  },
}

const deleteRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Delete a function',
    description: 'Its triggers go with it.',
    responses: responses(noContent, 404),
  },
}

export function fnsApi(parts: AdminParts) {
  const { state, config } = parts

  const mustFind = (id: string): Fn => {
    const fn = state.fn(id)
    if (fn === undefined) throw new FndError('fn-not-found')
    return fn
  }

  return new Elysia()
    .use(adminGuard(parts))
    .get(
      '/v2/fns',
      ({ query, request }) => {
        if (!query.app_id) throw new FndError('fn-app-id-missing', { field: 'app_id' })
        const page = pageFrom(query)
        const name = query.name ? { name: query.name } : {}
        const fns = state.fns({ appId: query.app_id, ...name }, page)
        const base = publicBase(config, request)
        return jsonResponse(listBody(fns, page, fn => fnToWire(fn, base)))
      },
      listRoute,
    )
    .post(
      '/v2/fns',
      async ({ body, request }) => {
        const fn = newFn(body, stampFrom(parts))
        const app = state.app(fn.appId)
        if (app === undefined) throw new FndError('app-not-found', { field: 'app_id' })
        const outcome = await state.propose({
          type: 'fn.create',
          fn: { ...fn, shape: app.shape },
        })
        return jsonResponse(fnToWire(fnOf(outcome), publicBase(config, request)))
      },
      createRoute,
    )
    .get(
      '/v2/fns/:fn_id',
      ({ params, request }) => {
        const fn = mustFind(idFrom(params.fn_id))
        return jsonResponse(fnToWire(fn, publicBase(config, request)))
      },
      getRoute,
    )
    .put(
      '/v2/fns/:fn_id',
      async ({ params, body }) => {
        const id = idFrom(params.fn_id)
        checkSameId(body, id, 'fn')
        const patch = fnPatch(body, mustFind(id))
        const atMs = parts.clock.nowMs()
        const outcome = await state.propose({ type: 'fn.update', id, atMs, patch })
        return jsonResponse(fnToWire(fnOf(outcome), undefined))
      },
      updateRoute,
    )
    .delete(
      '/v2/fns/:fn_id',
      async ({ params }) => {
        const { id } = mustFind(idFrom(params.fn_id))
        return deletedResponse(await state.propose({ type: 'fn.delete', id }))
      },
      deleteRoute,
    )
}
