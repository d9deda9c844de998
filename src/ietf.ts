export { type IetfHandler, type IetfOptions, ietfHandler } from './protocols/rufh/handler.ts'
