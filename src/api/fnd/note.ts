/** Proposes the command of the next version: how an upgrade goes can be seen by it. */
import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import { type AdminParts, adminGuard } from '../admin.ts'
import { responses, adminSecurity as security } from '../detail.ts'

export function noteApi(parts: AdminParts) {
  return new Elysia().use(adminGuard(parts)).post(
    '/fnd/v1/cluster/note',
    async ({ body }) => {
      const outcome = await parts.state.propose({ type: 'cluster.note', text: body.text })
      if (!outcome.ok) throw new FndError(outcome.code)
      return new Response(null, { status: 204 })
    },
    {
      body: t.Object({ text: t.String() }),
      detail: {
        tags: ['Node'],
        security,
        summary: 'Propose a command of the next version',
        description: 'Changes nothing. 409 while a node does not understand it.',
        responses: responses({ 204: { description: 'All understand it' } }, 400, 409),
      },
    },
  )
}
