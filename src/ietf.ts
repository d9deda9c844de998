export { type IetfHandler, type IetfOptions, ietfHandler } from './protocols/ietf/handler.ts'
