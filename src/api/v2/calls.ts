import { Elysia, t } from 'elysia'
import { FndError } from '../../errors.ts'
import { type AdminParts, adminOnly } from '../admin.ts'
import { responses, adminSecurity as security } from '../detail.ts'
import { idParameter } from './schemas.ts'

const detail = {
  tags: ['Calls'],
  security,
  deprecated: true,
  summary: 'Call records of Fn 0.3',
  description: 'Fn removed this feature and answers 410; so does fnd.',
  responses: responses({ 410: { description: 'Removed' } }),
}

const fnParams = t.Object({ fn_id: idParameter('Id of the function') })
const callParams = t.Object({
  fn_id: idParameter('Id of the function'),
  call_id: idParameter('Id of the call'),
})

function removed(): never {
  throw new FndError('feature-removed')
}

export function callsApi(parts: Pick<AdminParts, 'authorize'>) {
  return new Elysia()
    .use(adminOnly(parts.authorize))
    .get('/v2/fns/:fn_id/calls', removed, { params: fnParams, detail })
    .get('/v2/fns/:fn_id/calls/:call_id', removed, { params: callParams, detail })
    .get('/v2/fns/:fn_id/calls/:call_id/log', removed, { params: callParams, detail })
}
