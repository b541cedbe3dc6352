/**
 * Credentials with which an app pulls its images. They can be set, replaced and removed, and never
 * read: what comes back is where they are for, and the user's name.
 */
import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import { hostOf } from '../../exec/docker/auth.ts'
import { isDomain } from '../../exec/docker/reference.ts'
import { type App, ownerOfLogin, type RegistryLogin } from '../../store/objects.ts'
import { type AdminParts, adminGuard, deletedResponse } from '../admin.ts'
import { json, noContent, responses, adminSecurity as security } from '../detail.ts'
import { idFrom } from '../url.ts'
import { jsonResponse, timeText } from '../v2/json.ts'
import * as wire from '../v2/schemas.ts'

/** Makes of a secret what may be stored; `owner` is what it belongs to. */
export interface Sealer {
  seal(secret: string, owner: string): string
}

export const registrySchema = t.Object(
  {
    host: t.String({ description: 'As in the names of its images; `docker.io` for Docker Hub.' }),
    username: t.String({ description: 'Empty with an identity token.' }),
    updated_at: wire.updatedAtSchema,
  },
  { description: 'That an app has credentials for a registry; not the credentials.' },
)

export const registryBody = wire.wireObject(
  {
    username: t.Optional(t.String()),
    password: t.Optional(t.String({ description: 'Or an access token of the registry.' })),
    identity_token: t.Optional(
      t.String({ description: 'Instead of the two: what `docker login` got from the registry.' }),
    ),
  },
  'Credentials of a registry.',
)

const secretLengthMax = 16 * 1024
const appParams = t.Object({ app_id: wire.idParameter('Id of the app') })
const params = t.Object({
  app_id: wire.idParameter('Id of the app'),
  host: wire.idParameter('`host` or `host:port`; `docker.io` for Docker Hub'),
})
const tags = ['Images']
const path = '/fnd/v1/apps/:app_id/registries'

const listRoute = {
  params: appParams,
  detail: {
    tags,
    security,
    summary: 'List the registries that an app has credentials for',
    description: 'Hosts and names of users.',
    responses: responses({ 200: json('RegistryList', 'By host') }, 404),
  },
}

const getRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Ask whether an app has credentials for a registry',
    description: 'Host and name of the user.',
    responses: responses({ 200: json('Registry', 'It has') }, 400, 404),
  },
}

const putRoute = {
  params,
  body: registryBody,
  detail: {
    tags,
    security,
    summary: 'Set the credentials of an app for a registry',
    description: 'They replace what was set before. Stored encrypted; no answer holds them.',
    responses: responses({ 200: json('Registry', 'Stored') }, 400, 404, 413),
  },
}

const deleteRoute = {
  params,
  detail: {
    tags,
    security,
    summary: 'Remove the credentials of an app for a registry',
    description: 'Its images of that registry are pulled as any app pulls them.',
    responses: responses(noContent, 400, 404),
  },
}

function hostFrom(parameter: unknown): string {
  const host = hostOf(String(parameter))
  if (host.length > 255 || !isDomain(host)) {
    throw new FndError('registry-invalid', { field: 'host' })
  }
  return host
}

/** What is sealed: the username stays readable, so that people can tell what is set. */
function secretFrom(body: typeof registryBody.static): { username: string; secret: string } {
  const { username = '', password = '', identity_token: token = '' } = body
  const fault = (field: string, message: string): FndError =>
    new FndError('invalid-field', { field, message })
  if (token !== '' && password !== '') {
    throw fault('identity_token', 'give either username and password, or identity_token')
  }
  if (token === '' && username === '') throw fault('username', 'username is missing')
  if (token === '' && password === '') throw fault('password', 'password is missing')
  if (username.includes(':')) throw fault('username', 'username must not contain a colon')
  const isLong = [username, password, token].some(text => text.length > secretLengthMax)
  if (isLong) throw fault('password', `credentials are at most ${secretLengthMax} characters long`)
  return { username, secret: JSON.stringify({ password, identityToken: token }) }
}

function registryToWire({ host, username, updatedMs }: RegistryLogin): object {
  return { host, username, updated_at: timeText(updatedMs) }
}

export function registriesApi(parts: AdminParts & { readonly secrets: Sealer }) {
  const { state, secrets, clock } = parts

  const mustFindApp = (parameter: unknown): App => {
    const app = state.app(idFrom(parameter))
    if (app === undefined) throw new FndError('app-not-found')
    return app
  }

  const mustFind = (appId: string, host: string): RegistryLogin => {
    const found = state.registries(appId).find(one => one.host === host)
    if (found === undefined) throw new FndError('registry-not-found')
    return found
  }

  return new Elysia()
    .use(adminGuard(parts))
    .get(
      path,
      ({ params }) => {
        const { id } = mustFindApp(params.app_id)
        return jsonResponse({ items: state.registries(id).map(registryToWire) })
      },
      listRoute,
    )
    .get(
      `${path}/:host`,
      ({ params }) => {
        const { id } = mustFindApp(params.app_id)
        return jsonResponse(registryToWire(mustFind(id, hostFrom(params.host))))
      },
      getRoute,
    )
    .put(
      `${path}/:host`,
      async ({ params, body }) => {
        const appId = mustFindApp(params.app_id).id
        const host = hostFrom(params.host)
        const { username, secret } = secretFrom(body)
        // Sealed before it is proposed: the log keeps commands for long, and copies of it go round.
        const sealed = secrets.seal(secret, ownerOfLogin({ appId, host }))
        const login = { appId, host, username, sealed, updatedMs: clock.nowMs() }
        const outcome = await state.propose({ type: 'registry.set', login })
        if (!outcome.ok) throw new FndError(outcome.code)
        return jsonResponse(registryToWire(login))
      },
      putRoute,
    )
    .delete(
      `${path}/:host`,
      async ({ params }) => {
        const appId = mustFindApp(params.app_id).id
        const host = hostFrom(params.host)
        return deletedResponse(await state.propose({ type: 'registry.delete', appId, host }))
      },
      deleteRoute,
    )
}
